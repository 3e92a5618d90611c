"""Addresses: read, printed, matched, and refused in a sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limelight.probe.errors import SiteError
from limelight.probe.sites.site import Pattern, Site, no_match, parse, part_of_model


@pytest.mark.parametrize(
    ("text", "path", "port", "call", "index"),
    [
        ("layer1.0", "layer1.0", "out", None, None),
        ("layer1.0:in", "layer1.0", "in", None, None),
        ("features.10:out[17]", "features.10", "out", None, 17),
        ("features.10[17]", "features.10", "out", None, 17),
        ("blocks.3.attn:heads.6", "blocks.3.attn", "heads", None, 6),
        ("blocks.3.attn:map.0@2", "blocks.3.attn", "map", 2, 0),
        ("act@1", "act", "out", 1, None),
        ("net:out.logits", "net", "out.logits", None, None),
        ("block:add.1", "block", "add.1", None, None),
        (":add.0", "", "add.0", None, None),
        ("input", "", "in", None, None),
        ("output", "", "out", None, None),
        (" layer?.** ", "layer?.**", "out", None, None),
    ],
)
def test_parse(text, path, port, call, index):
    assert parse(text) == Pattern(path, port, call, index)


@pytest.mark.parametrize(
    ("site", "text"),
    [
        (Site(""), "output"),
        (Site("", "in"), "input"),
        (Site("a.b"), "a.b"),
        (Site("a.b", "in", 2), "a.b:in@2"),
        (Site("a", "heads", 0, 6), "a:heads.6"),
        (Site("a", "out", 1, 3), "a:out[3]@1"),
        (Site("", "add.1"), ":add.1"),
    ],
)
def test_a_site_prints_as_an_address_that_means_it(site, text):
    assert str(site) == text
    assert parse(text).matches(site)
    assert parse(text).index == site.index


def test_axes_are_no_part_of_the_identity():
    assert Site("a", axes="b c") == Site("a", axes="b n c")
    assert len({Site("a", axes="b c"), Site("a")}) == 1


def test_a_named_call_matches_that_call_only():
    assert parse("a").matches(Site("a", call=3))
    assert not parse("a@0").matches(Site("a", call=3))
    assert str(parse("a@0")) == "a@0"


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*", ["a", "ab"], ["", "a.b"]),
        ("**", ["", "a", "a.b.c"], []),
        ("blocks.*", ["blocks.1"], ["blocks", "blocks.1.attn"]),
        ("blocks.**", ["blocks.1", "blocks.1.attn"], ["blocks", "block.1"]),
        ("blocks.?", ["blocks.1"], ["blocks.10"]),
        ("*.attn", ["1.attn"], ["blocks.1.attn"]),
    ],
)
def test_wildcards(pattern, yes, no):
    found = parse(pattern)
    assert all(found.matches(Site(path)) for path in yes)
    assert not any(found.matches(Site(path)) for path in no)
    assert not found.concrete


def test_a_dot_is_a_dot():
    assert not parse("a.b").matches(Site("axb"))


@pytest.mark.parametrize("text", ["a[b]", "a:", "a@x", "a::b", "a]"])
def test_no_address(text):
    with pytest.raises(SiteError, match=r"is no site: write a module path and, if needed, a port"):
        parse(text)


def test_no_match_names_the_nearest():
    error = no_match("layer1.O", [Site("layer1.0"), Site("layer2.0")])
    assert str(error).startswith("site 'layer1.O' matched nothing in this model; did you mean ")
    assert "'layer1.0'" in str(error)
    assert "there are 1 sites, such as 'a'" in str(no_match("zzzzzz", [Site("a")]))
    assert str(no_match("zz", [])).endswith("there are 0 sites")


NAMES = st.from_regex(r"[a-z_][a-z_0-9]{0,5}", fullmatch=True)
PATHS = st.lists(NAMES | st.just("*") | st.just("**") | st.just("layer?"), max_size=4).map(".".join)
PORTS = st.sampled_from(["out", "in", "in.1", "out.logits", "add.2", "q", "map", "heads"])
NUMBERS = st.none() | st.integers(0, 300)


@given(PATHS, PORTS, NUMBERS, NUMBERS)
def test_what_a_pattern_prints_is_what_it_was_read_from(path, port, call, index):
    pattern = Pattern(path, port, call, index)
    if path in ("input", "output"):
        return  # the model's own words
    assert part_of_model(parse(str(pattern))) == pattern


@given(st.text(max_size=20))
def test_any_text_is_an_address_or_refused(text):
    try:
        pattern = parse(text)
    except SiteError:
        return
    assert part_of_model(parse(str(pattern))) == part_of_model(pattern)
    pattern.matches(Site("a.b", "out"))

"""The page as text: nothing from outside runs or loads, numbers survive, sizes stay in budget."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from base64 import b64decode, b64encode
from dataclasses import replace
from hashlib import sha256
from html import unescape
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from kinds import mixed
from pages import EVIL, data_of, elements, explanation, maps_of, picture, values_of
from PIL import Image

from limelight.probe.errors import LimelightError
from limelight.probe.results.colour_scales import table
from limelight.probe.results.map_values import About
from limelight.probe.results.maps import Maps
from limelight.probe.results.saliency_map import SaliencyMap
from limelight.probe.sites.site import Site
from limelight.reports import Areas, Explanation, Guess, Photo, Sample, render
from limelight.reports.explanation.page import provenance
from limelight.reports.explanation.page_data import page_data
from limelight.reports.html.document import embed


def one(values: torch.Tensor, axes: str = "y x", **labels: str) -> SaliencyMap:
    names = {"sample": "dog.jpg", "target": "dog", "method": "gradcam", **labels}
    return SaliencyMap(values, axes, site=Site("a"), extent=(), **names)


def test_names_from_outside_are_text() -> None:
    about = About(EVIL, EVIL, EVIL, ((EVIL, EVIL),), 0, EVIL, ((EVIL, EVIL),), EVIL, notes=(EVIL,))
    m = SaliencyMap(torch.rand(3, 3), "y x", EVIL, EVIL, EVIL, Site(EVIL), (), about)
    page = render(
        Explanation(
            Maps([m]),
            (Photo(EVIL, picture(0, 32)),),
            {EVIL: [Guess(EVIL, 1, 0.5)]},
            {EVIL: [EVIL]},
            title=EVIL,
        )
    )
    plain = render(explanation())
    assert page.count("<script") == plain.count("<script") == 2
    assert page.count("</script>") == 2
    outline, attributes = elements(page)
    assert outline <= elements(plain)[0]
    assert not [name for name in attributes if name.startswith("on")]
    assert "{{ 7 * 7 }}" in unescape(page), "a template in a name is not run"
    data = data_of(page)
    assert data["samples"][0]["name"] == EVIL
    assert data["methods"] == [EVIL]
    assert data["samples"][0]["top"][0][0] == EVIL


def test_names_of_features_and_classes_are_text() -> None:
    m = one(torch.rand(1), "c", sample="s")
    areas = {"dog.jpg": Areas(torch.tensor([[0]]), (EVIL,))}
    sample = Sample("s", torch.rand(1), "c", (EVIL,))
    photo = Photo("dog.jpg", picture(0, 32))
    page = render(Explanation(Maps([m]), (photo,), samples=(sample,), areas=areas))
    assert page.count("<script") == page.count("</script>") == 2
    assert elements(page)[0] <= elements(render(explanation()))[0]
    first, second = data_of(page)["samples"]
    assert first["areas"]["classes"] == [[EVIL, 0]]
    assert second["drawn"]["names"] == [EVIL]


def test_samples_of_other_kinds_load_nothing_either() -> None:
    page = render(replace(mixed(), restored={"photo": picture(1, 32)}))
    assert "://" not in page
    sources = re.findall(r'\bsrc="([^"]{0,30})', page)
    assert len(sources) == 2
    assert all(source.startswith("data:image/webp;base64,") for source in sources)
    assert not re.search(r"\sstyle=|\son\w+=", page), "the policy would block inline styles"


def test_photos_carry_no_word_of_other_kinds() -> None:
    data = page_data(explanation())
    keys = {key for sample in data["samples"] for key in sample}
    assert keys == {"name", "seen", "top", "words"}
    assert not any({"block", "numbers"} & set(m) for m in data["maps"])


def test_embedded_json_holds_no_markup() -> None:
    text = embed({"a": EVIL, "b": "\udcff"})
    assert not set("<>&\u2028\u2029") & set(text)
    assert text.isascii()
    assert json.loads(text) == {"a": EVIL, "b": "\udcff"}


def test_policy_allows_this_style_and_this_script_only() -> None:
    page = render(explanation())
    policy = unescape(re.findall(r'Content-Security-Policy" content="([^"]*)"', page)[0])
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "unsafe" not in policy
    for name, pattern in (
        ("style", r"<style>(.*?)</style>"),
        ("script", r"<script>(.*?)</script>"),
    ):
        text = re.findall(pattern, page, re.DOTALL)
        assert len(text) == 1
        digest = b64encode(sha256(text[0].encode()).digest()).decode()
        assert rules[f"{name}-src"] == f"'sha256-{digest}'"
    assert page.index("Content-Security-Policy") < page.index("<style>")


def test_nothing_is_loaded_from_anywhere() -> None:
    page = render(explanation())
    assert "://" not in page
    assert not re.search(r"@import|url\(|<link|<iframe|fetch\(|XMLHttpRequest|import\(", page)
    sources = re.findall(r'\bsrc="([^"]{0,30})', page)
    assert len(sources) == 2
    assert all(source.startswith("data:image/webp;base64,") for source in sources)
    assert not re.search(r"\sstyle=|\son\w+=", page), "the policy would block inline styles"


def test_photos_are_there_once_and_whole() -> None:
    page = render(explanation())
    uri = re.findall(r'src="data:image/webp;base64,([^"]*)"', page)[0]
    with Image.open(BytesIO(b64decode(uri))) as photo:
        assert photo.size == (224, 224)
        error = np.abs(np.asarray(photo.convert("RGB"), float) - np.asarray(picture(0), float))
    assert error.mean() < 8
    assert page.count(uri) == 1


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0, -2.0])
def test_maps_survive_as_bytes(shift: float) -> None:
    values = torch.rand(9, 7) - shift
    entry = page_data(Explanation(Maps([one(values)])))["maps"][0]
    assert entry["range"] == [values.min().item(), values.max().item()]
    assert np.abs(values_of(entry) - values.numpy()).max() <= entry["step"] / 2 + 1e-6


def test_zero_of_a_signed_map_stays_zero() -> None:
    entry = page_data(Explanation(Maps([one(torch.tensor([[-0.3, 0.0, 0.7]]))])))["maps"][0]
    assert values_of(entry)[0, 1] == 0


@pytest.mark.parametrize(
    ("values", "known", "bad"),
    [
        (torch.full((2, 2), float("nan")), None, 4),
        (torch.tensor([[0.0, float("inf")]]), [0.0, 0.0], 1),
        (torch.full((2, 2), 3.0), [3.0, 3.0], 0),
        (torch.tensor([[-1e300, 1e300]], dtype=torch.float64), [-1e300, 1e300], 0),
        (torch.zeros(0, 3), None, 0),
    ],
)
def test_odd_maps_are_handled_and_said(values: torch.Tensor, known: list | None, bad: int) -> None:
    entry = data_of(render(Explanation(Maps([one(values)]))))["maps"][0]
    assert entry["range"] == known
    assert entry["bad"] == bad
    if known:
        assert np.nanmax(values_of(entry)) == pytest.approx(known[1])


def test_names_orders_and_repeats() -> None:
    data = page_data(explanation())
    assert data["sites"][0] == "input"
    assert [s["name"] for s in data["samples"]] == ["dog.jpg", "boat.jpg", "a sentence"]
    assert [m["kind"] for m in data["maps"][-2:]] == ["tokens", "matrix"]
    assert b64decode(data["scales"]["diverging"]) == table("diverging").tobytes()
    twice = page_data(Explanation(Maps([one(torch.rand(2, 2)), one(torch.rand(2, 2))])))
    assert twice["methods"] == ["gradcam", "gradcam (2)"]


def test_the_question_and_the_origin_are_printed() -> None:
    page = unescape(render(explanation()))
    assert "<h1>What efficientnet_lite0 looks at</h1>" in page
    assert "gradcam, lrp, rise and 4 more at 6 layers, for dog, cat, boat and Mary" in page
    rows = dict(provenance(explanation()))
    assert rows["Options"] == ["gradcam: a = gradcam", "lrp: a = lrp"]
    assert rows["Weights"] == ["sha256:0f1e2d"]
    assert rows["Versions"] == ["torch 2.13.0"]
    assert rows["Notes"] == ["layers found by shape"]
    assert "Left out" not in rows
    lost = replace(explanation(), skipped=(("a.jpg", "no picture"),))
    assert dict(provenance(lost))["Left out"] == ["a.jpg: no picture"]
    assert "from a file of 640 × 427, columns 106 to 533, rows 0 to 427" in str(data_of(page))


def test_budgets() -> None:
    demo = Explanation(
        Maps(maps_of("dog.jpg", "dog", 0, (112, 56, 28, 14, 14, 7, 7))),
        (Photo("dog.jpg", picture(0)),),
    )
    assert len(render(demo).encode()) < 1_000_000
    sizes = [(14, 28, 56)[i % 3] for i in range(40)]
    many = [
        replace(m, site=Site(f"b{i}"))
        for k in range(24)
        for i, m in enumerate(maps_of(f"{k}.jpg", "dog", k, sizes)[:80:2])
    ]
    assert len(many) == 24 * 40
    photos = tuple(Photo(f"{k}.jpg", picture(k)) for k in range(24))
    size = len(render(Explanation(Maps(many), photos)).encode())
    assert 1_000_000 < size < 8_000_000, size


def test_budgets_of_other_kinds() -> None:
    """A minute of a 12-lead ECG at 500 Hz, a scan of 128 cubed, each with four maps of its size."""
    kinds = {
        "c t": (torch.randn(12, 30_000), "t", 30_000),
        "c z y x": (torch.randn(1, 128, 128, 128), "z y x", 128**3),
    }
    for axes, (values, over, count) in kinds.items():
        shape = values.shape[1:]
        maps = [one(torch.randn(shape), over, sample="s", method=str(k)) for k in range(4)]
        page = render(Explanation(Maps(maps), samples=(Sample("s", values, axes),)))
        assert len(page) < 8_000_000, axes
        assert (
            max(len(m["bytes"]) for m in data_of(page)["maps"]) <= 4 / 3 * min(count, 1 << 20) + 4
        )


def test_save_writes_a_page_and_nothing_else(tmp_path: Path) -> None:
    path = explanation().save(tmp_path / "out.html")
    assert path.read_text(encoding="utf-8") == render(explanation())
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(LimelightError, match=r"choose the ending \.html"):
        explanation().save(tmp_path / "out.png")


def test_notebook_gets_the_page_in_a_closed_frame() -> None:
    shown = explanation()._repr_html_()
    assert 'sandbox="allow-scripts"' in shown
    inner = re.findall(r'srcdoc="([^"]*)"', shown)[0]
    assert unescape(inner) == render(explanation())


def test_an_empty_explanation_renders() -> None:
    page = render(Explanation(Maps()))
    assert "No maps were computed." in page
    assert "What the model looks at" in page
    assert repr(Explanation(Maps())) == "Explanation(Maps(0 maps of nothing), 0 photos)"


def test_jinja_is_imported_late() -> None:
    code = "import sys, limelight.reports; sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

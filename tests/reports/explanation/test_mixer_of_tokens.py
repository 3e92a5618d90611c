"""Figures of mixers over tokens: the numbers behind them, and the page in a browser."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from browser import browser, resize  # noqa: F401
from matrix import SMALL
from torch import Tensor, nn

import limelight as ll
from limelight.kernels.taylor import taylor_denominator
from limelight.methods.attention import mixing_filters
from limelight.models.zoo.seerattention import compare_gates
from limelight.probe.errors import MethodError, OptionError
from limelight.reports.explanation.contents import Curve, MixerFigure
from limelight.reports.explanation.mixer import figures_of, mixer_of

NAMED = {s.name: s for s in SMALL}


def small(name: str) -> tuple[nn.Module, Tensor]:
    return NAMED[name].build(), NAMED[name].batch(1)


def figure(name: str, title: str) -> MixerFigure:
    model, x = small(name)
    return next(f for f in mixer_of(model, x, "x").figures if f.title == title)


def curves(name: str, title: str) -> dict[str, Curve]:
    (row,) = figure(name, title).rows
    return {c.name: c for c in row.curves}


def test_whole_maps_are_those_of_the_trace():
    model, x = small("zoology_attention")
    value = ll.trace(model, x, ["backbone.layers.1.sequence_mixer:map"])
    (want,) = value.values()
    row = figure("zoology_attention", "Who reads whom").rows[1]
    assert row.label == "backbone.layers.1.sequence_mixer"
    torch.testing.assert_close(row.maps[0][1].values, want.act[0, 0])


def test_a_model_names_the_figures_of_the_mixers_it_was_built_with():
    model = ll.load(
        "zoology", weights=None, d_model=8, vocab_size=16, sequence_mixer=["rwkv", "based"]
    )
    titles = [f.title for f in figures_of(model)]
    assert titles == ["Who reads whom", "Decay lengths", "Receptance", "Denominators"]
    drawn = mixer_of(model, torch.arange(8)[None], "x")
    assert [f.title for f in drawn.figures] == titles
    plain = ll.load("smollm2_135m", weights=None, **NAMED["smollm2_135m"].hyper)
    assert [f.title for f in figures_of(plain, tokens=True)] == ["Who reads whom"]


def test_decay_lengths_are_sorted_in_powers_of_ten():
    model, _ = small("zoology_rwkv")
    found = curves("zoology_rwkv", "Decay lengths")
    mixer = model.backbone.layers[0].sequence_mixer
    want = (-mixer.time_decay.detach().double()).sort().values / math.log(10)
    torch.testing.assert_close(found["backbone.layers.0.sequence_mixer"].y, want)


def test_denominators_are_the_mean_weight_of_what_was_seen():
    model, x = small("zoology_based")
    line = curves("zoology_based", "Denominators")["backbone.layers.1.sequence_mixer.mixer"].y
    port = "backbone.layers.1.sequence_mixer.mixer:"
    q, k = (v.act for v in ll.trace(model, x, [port + "q", port + "k"]).values())
    want = taylor_denominator(q, k)[0].mean(0) / torch.arange(1, x.shape[1] + 1)
    torch.testing.assert_close(line, want.detach())
    assert line[0].item() > 0.5


def test_selection_is_what_multiplies():
    found = curves("zoology_selective", "Selection")
    line = found["backbone.layers.0.sequence_mixer:selection"].y
    assert (line > 0).sum() == math.ceil(math.sqrt(24))
    model, x = small("zoology_selective")
    mixer = model.backbone.layers[0].sequence_mixer
    inside = model.backbone.layers[0].norm1(model.backbone.embeddings(x))
    want = mixer.selecting(inside).softmax(1)[0, :, 0].detach()
    torch.testing.assert_close(line[line > 0], want[line > 0])


def test_a_short_filter_is_its_weights():
    model, x = small("zoology_baseconv")
    first, second = mixing_filters(model, x)
    conv = model.backbone.layers[0].sequence_mixer.mixer.conv.conv
    torch.testing.assert_close(first.parts["filter"], conv.weight[:, 0].flip(-1).detach())
    at, power = first.power("filter")
    turns = torch.exp(-2j * math.pi * at[:, None] * torch.arange(3))
    want = (first.parts["filter"].double() + 0j) @ turns.T
    torch.testing.assert_close(power, want.abs().square().mean(0))
    assert second.parts["filter"].shape == (16, 24)


def test_hyena_and_h3_show_the_filter_that_the_op_was_given():
    for name in ("zoology_hyena", "zoology_h3"):
        model, x = small(name)
        one = mixing_filters(model, x)[0]
        (value,) = ll.trace(model, x, ["backbone.layers.0.sequence_mixer:filter"]).values()
        torch.testing.assert_close(one.parts["filter"], value.act.detach()[..., : x.shape[1]])


def test_orchids_filters_add_up_to_the_one_that_it_convolves_with():
    model, x = small("orchid_bert_base")
    one = mixing_filters(model, x)[0]
    attn = model.blocks[0].attn
    (value,) = ll.trace(model, x, ["blocks.0.attn:filter"]).values()
    taps = torch.fft.irfft(value.act[0], n=x.shape[1]).detach()
    taps[:, 0] -= attn.fixed_conv.bias.detach()
    torch.testing.assert_close(sum(one.parts.values()), taps, rtol=1e-4, atol=1e-5)
    energy = curves("orchid_bert_base", "Energy of filters")
    for name in ("static", "adaptive"):
        want = one.parts[name].square().sum(-1).mean().log10()
        torch.testing.assert_close(energy[name].y[0], want)


def test_row_sums_with_the_bias_and_without():
    hyper = {"d_model": 16, "num_heads": 2, "num_blocks": 2, "vocab_size": 32, "kind": "none"}
    n = 32
    torch.manual_seed(0)
    model = ll.load("sigmoid_attention", weights=None, attn_bias=-math.log(n), **hyper)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight[:32] = 0  # no queries, no keys: all scores are zero
            block.attn.q_norm.bias.zero_()
    ids = torch.arange(n)[None]
    rows = {f.title: f for f in mixer_of(model, ids, "x").figures}["Row sums"].rows
    found = {c.name: c.y for c in rows[0].curves}
    seen = (n + 1) / 2  # keys of a causal row in the mean
    torch.testing.assert_close(found["row_sum"], torch.full((2,), seen / (1 + n)).double())
    torch.testing.assert_close(found["row_sum,bias=false"], torch.full((2,), seen / 2).double())
    soft = ll.load("smollm2_135m", weights=None, **NAMED["smollm2_135m"].hyper)
    assert ll.maps(soft, ids, "row_sum,bias=false")[0].values.isnan().all()


def test_sharing_tells_who_reads_whom():
    (row,) = figure("sigma_1.5b", "Which heads are shared").rows
    (_, keys), (_, held) = row.maps
    assert keys.values.argmax(0).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert held.values.argmax(0).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert row.label == "model.layers.0.self_attn and 1 more, 8 query heads across"


def test_entropies_inside_groups_are_those_of_the_heads():
    model, x = small("sigma_1.5b")
    want = ll.maps(model, x, "attention_entropy")[0].values
    by_keys, by_values = figure("sigma_1.5b", "Entropy of heads that share").rows[:2]
    for row, groups in ((by_keys, 2), (by_values, 4)):
        assert len(row.curves) == groups
        joined = torch.cat([c.y for c in row.curves])
        torch.testing.assert_close(joined.double(), want.double(), rtol=1e-5, atol=1e-6)


def test_gates_stand_beside_truth_and_rivals():
    model, x = small("seerattention")
    want = compare_gates(model, x)
    rows = figure("seerattention", "Gates beside pooled attention").rows
    torch.testing.assert_close(rows[1].maps[0][1].values, want[0].truth[0, 0])
    torch.testing.assert_close(rows[0].maps[-1][1].values, want[0].scores[0, -1].tril())
    kept = curves("seerattention", "Mass kept")
    for name in ("kept", "oracle", "local", "random"):
        torch.testing.assert_close(kept[name].y[1], getattr(want[1], name)[0].mean())
    shares = curves("seerattention", "Density")
    assert shares["head 2"].y[0] == want[0].density[0, 2]


def test_what_cannot_be_drawn_is_told():
    model, x = small("zoology_attention")
    with pytest.raises(MethodError, match="this model mixes by none: give one such as"):
        mixing_filters(model, x)
    long = torch.zeros(1, 520, dtype=torch.long)
    model = ll.load("zoology", weights=None, d_model=8, vocab_size=16, sequence_mixer="rwkv")
    drawn = mixer_of(model, long, "x")
    assert drawn.undrawn == (("Who reads whom", "maps over 520 tokens are more than a page bears"),)


def test_numbers_that_are_no_ids_are_refused():
    net = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(OptionError, match="draws over pictures, token ids, or what"):
        ll.explain(net, inputs=torch.randn(2, 3), methods="gradient", mixer=True)


@pytest.mark.parametrize(("name", "width", "dark"), [
    ("seerattention", 380, True), ("zoology_hyena", 1280, False), ("sigma_1.5b", 380, False),
])  # fmt: skip
def test_the_section_in_a_browser(
    browser: Any,  # noqa: F811
    tmp_path: Any,
    name: str,
    width: int,
    dark: bool,
) -> None:
    one = NAMED[name]
    target = ll.token(1, -1)
    shown = ll.explain(
        one.build(), inputs=one.batch(2), methods="gradient", target=target, mixer=True
    )
    resize(browser, width, 900, dark=dark)
    browser.get(shown.save(tmp_path / "page.html").as_uri())
    painted, titles, words, far = browser.execute_async_script("""
        const done = arguments[0], wait = () => {
          const all = [...document.querySelectorAll(".tiles canvas")];
          const painted = all.every((c) => c.width >= 320 || c.height >= 320);
          if (!painted) return requestAnimationFrame(wait);
          const titles = [...document.querySelectorAll(".mixed h3")].map((e) => e.textContent);
          const words = document.querySelector(".mixer > p").textContent;
          done([all.length, titles, words, document.documentElement.scrollWidth]);
        };
        wait();""")
    assert painted == sum(len(row.maps) for f in shown.mixer.figures for row in f.rows) > 0
    assert titles == [f.title for f in shown.mixer.figures]
    assert words == "On sample 1, the first sample."
    assert far <= width
    assert browser.get_log("browser") == []

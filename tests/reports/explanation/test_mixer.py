"""What a token mixer does: every figure that a card names, and the numbers behind it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matrix import SMALL
from pages import EVIL, data_of, elements, picture, values_of
from torch import nn

import limelight as ll
from limelight.methods.attention import learned_curves
from limelight.models.card import CENTRE, DISTANCE, Card, Figure
from limelight.probe.errors import OptionError
from limelight.probe.results.maps import Maps
from limelight.probe.results.saliency_map import SaliencyMap
from limelight.probe.sites.site import Site
from limelight.reports import Explanation, Photo, render
from limelight.reports.explanation.contents import Curve, FigureRow, Mixer, MixerFigure
from limelight.reports.explanation.mixer import figures_of, mixer_of, section
from limelight.reports.explanation.mixer.picture import spread_over

AXES = {"input": "b c y x"}  # of models that take a picture alone
SHOWN = {s.name: ll.list_models(s.name)[0].shows for s in SMALL if s.name != "mobilenet_v1"}
NAMED = {s.name: s for s in SMALL if SHOWN.get(s.name) or s.name.startswith("zoology")}
MIXERS = [
    "activator", "convit", "ffnet", "garnet", "karat", "litv2", "moat", "msguided", "ninformer",
    "oat_amazon", "overlock", "psa", "relationnet2", "s2aformer", "sentence_attention",
    "sparsifiner", "transnext", "ulsam",
]  # fmt: skip


def small(name: str) -> tuple[nn.Module, Any]:
    return NAMED[name].build(), NAMED[name].batch(1)


def mixer(name: str, model: nn.Module, x: Any) -> Mixer:
    axes = None if NAMED[name].given or NAMED[name].tokens else AXES
    return mixer_of(model, x, "x", axes, NAMED[name].asked)


def figure(name: str, title: str) -> MixerFigure:
    return next(f for f in mixer(name, *small(name)).figures if f.title == title)


def maps_in(mixer: Mixer) -> list[SaliencyMap]:
    return [m for f in mixer.figures for row in f.rows for _, m in row.maps]


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_new_mixer_names_figures(mixer):
    assert any(mixer in name for name in NAMED)


@pytest.mark.parametrize("name", NAMED)
def test_every_figure_that_is_named_is_drawn_in_finite_numbers(name):
    model, x = small(name)
    found = mixer(name, model, x)
    assert found.undrawn == ()
    assert [f.title for f in found.figures] == [f.title for f in figures_of(model)]
    assert all(m.values.isfinite().all() for m in maps_in(found))
    for drawn in found.figures:
        assert drawn.about
        for row in drawn.rows:
            assert [bool(row.maps), bool(row.curves), bool(row.images)].count(True) == 1
            assert all(c.y.isfinite().any() and len(c.x) == len(c.y) for c in row.curves)


def test_a_norm_is_that_of_the_captured_value():
    model, x = small("overlock_xt")
    traced = ll.trace(model, x, sites=["sub_blocks3.1:context"])
    (value,) = traced.values()
    drawn = dict(figure("overlock_xt", "The overview prior").rows[0].maps)
    torch.testing.assert_close(drawn["sub_blocks3.1:context"].values, value.act[0].norm(dim=0))


def test_the_class_token_is_drawn_below_zero():
    model, x = small("karat_tiny_g3b")
    (value,) = ll.trace(model, x, sites=["blocks.1.attn:map"]).values()
    row = figure("karat_tiny_g3b", "Where the class token looks").rows[1]
    assert row.label == "blocks.1.attn"
    drawn = torch.stack([m.values for _, m in row.maps])
    torch.testing.assert_close(drawn, value.act[0, :, 0, 1:].unflatten(1, (4, 4)))
    assert (drawn < 0).any()


@pytest.mark.parametrize("name", ["transnext_micro", "litv2_s", "s2aformer_mini", "tiny_moat0"])
def test_the_centre_is_a_row_of_the_map(name):
    model, x = small(name)
    for row in figure(name, "Where the centre looks").rows:
        (value,) = ll.trace(model, x, sites=[f"{row.label}:map"]).values()
        queries = value.act.shape[2]
        side = round(queries**0.5)
        want = value.act[0, :, side // 2 * side + side // 2]
        for head, (_, m) in enumerate(row.maps):
            assert m.extent == (0, 0, 64, 64)
            torch.testing.assert_close(m.values.sum(), want[head].sum())
            if m.values.numel() == want.shape[1]:
                torch.testing.assert_close(m.values.flatten(), want[head])


def test_shares_of_tokens_sum_to_the_logit():
    model, x = small("activator_cifar10")
    ((_, m),) = figure("activator_cifar10", "What each token adds").rows[0].maps
    torch.testing.assert_close(m.values.sum(), model(x)[0].max().detach())


def test_what_a_mask_keeps_lies_within_it():
    row = figure("sparsifiner_small", "Connectivity of the centre").rows[0]
    seen, softmax, behind = (m.values for _, m in row.maps[:3])
    assert set(seen.unique().tolist()) == {0.0, 1.0}
    assert (behind[seen == 0] == 0).all()
    assert (behind[seen == 1] >= softmax[seen == 1]).all()
    assert not row.alike


def test_choices_are_driven_by_what_relevance_says():
    model, x = small("oat_amazon")
    with torch.no_grad():
        likeliest = model(*x)[0].argmax(-1).tolist()
    rows = figure("oat_amazon", "What drove each step").rows
    assert [row.label for row in rows] == [":objects", ":target", ":fixations"]
    for step, best in enumerate(likeliest):
        found = [row.maps[step] for row in rows]
        assert {words for words, _ in found} == {f"step {step}: {best}"}
        assert [tuple(m.values.shape) for _, m in found] == [(2, 3), (1, 1), (1, 5)]
        total = sum(m.values.sum() for _, m in found)
        scores = ll.choice(step, best)(model(*x), 1).detach()
        torch.testing.assert_close(total, scores[0], rtol=1e-4, atol=1e-4)
        assert not found[2][1].values[:, step + 1 :].any()  # what comes later has no part in it


def test_steps_are_the_values_of_their_site():
    model, x = small("oat_amazon")
    (value,) = ll.trace(model, x, sites=[":end"]).values()
    (row,) = figure("oat_amazon", "When the search ends").rows
    torch.testing.assert_close(row.curves[0].y.float(), value.act[0])
    been = figure("oat_amazon", "Where the gaze has been").rows[0].maps
    for step, (_, m) in enumerate(been):  # of the path 2, 2, 5, 1 over a shelf of 2 x 3
        numbers = {obj: k for k, obj in enumerate([2, 2, 5, 1][:step], 1)}
        assert m.values.flatten().tolist() == [numbers.get(obj, 0) for obj in range(6)]
    choices = figure("oat_amazon", "Where the gaze goes next").rows[0].maps
    left = torch.stack([m.values.sum() for _, m in choices])
    torch.testing.assert_close(left, 1 - value.act[0])


def test_lines_to_key_points_are_as_bright_as_the_attention():
    model, x = small("relationnet2_retinanet_r50_fpn")
    site = "bbox_head.reg_transformer.decoder.1"
    with ll.Probe(model, grad=False) as p:
        p.watch(f"{site}:map@0", f"{site}:points@0", f"{site}:places@0")
        p(x)
        share, points, places = (p.trace[f"{site}:{n}@0"].act for n in ("map", "points", "places"))
    row = figure("relationnet2_retinanet_r50_fpn", "Key points and lines to them").rows[2]
    assert row.label.startswith(site)
    drawn = dict(row.maps)
    start = int((places - 32).square().sum(1).argmin())
    pixels = (points[0] * 2).floor().long().clamp(0, 127)  # 128 pixels for 64
    for words, own in (("mean of heads", share[0].mean(0)), ("head 2", share[0, 2])):
        m = drawn[words]
        assert m.extent == (0, 0, 64, 64)
        assert float(m.values.max()) == pytest.approx(float(own[start].max()))
        ends = m.values[pixels[:, 1], pixels[:, 0]]
        assert (ends >= own[start] - 1e-6).all()
        assert len(m.values.unique()) <= 1 + len(own[start])
        x_, y_ = (places[start] * 2).long().tolist()
        assert float(m.values[y_, x_]) == pytest.approx(float(own[start].max()))
    counted = drawn["key points"].values
    assert (counted[pixels[:, 1], pixels[:, 0]] >= 1).all()
    assert counted.max() <= 12
    assert (counted == 0).any()


def test_scores_without_key_points_are_those_of_a_patched_run():
    model, x = small("relationnet2_retinanet_r50_fpn")
    row = figure("relationnet2_retinanet_r50_fpn", "Classes without key points").rows[0]
    whole, less, lost = (m.values for _, m in row.maps)
    with torch.no_grad():
        torch.testing.assert_close(whole, model(x)["cls_score"][0][0].amax(0))
    cut = ll.patch(model, x, {"bbox_head.cls_transformer.decoder.0": ll.zero})
    torch.testing.assert_close(less, cut["cls_score"][0][0].amax(0))
    torch.testing.assert_close(lost, whole - less)
    assert lost.abs().max() > 1e-4


def test_geometry_is_drawn_a_head_at_a_time():
    model, _ = small("relationnet2_retinanet_r50_fpn")
    row = figure("relationnet2_retinanet_r50_fpn", "Geometry").rows[0]
    own = model.bbox_head.cls_transformer.relative_positional_encoding
    torch.testing.assert_close(torch.stack([m.values for _, m in row.maps]), own.table().detach())


def test_tables_are_the_parameters():
    model, _ = small("ffnet_3")
    row = figure("ffnet_3", "Value kernels").rows[0]
    weight = model.get_parameter(row.label.partition(",")[0])
    words, m = row.maps[-1]
    assert words == str(len(weight) - 1)
    torch.testing.assert_close(m.values, weight[-1, 0].detach())


def test_power_is_spread_over_all_frequencies():
    for curve in figure("litv2_s", "Power spectra").rows[0].curves:
        assert (10**curve.y).nansum().item() == pytest.approx(1, abs=1e-4)


def test_heads_are_those_of_the_method():
    model, x = small("convit_tiny")
    found = ll.maps(model, x, "gate")
    mean, *heads = figure("convit_tiny", "Gates").rows[0].curves
    torch.testing.assert_close(mean.y[0], found[0].values.mean())
    assert [h.y[1].item() for h in heads] == pytest.approx(found[1].values.tolist())
    assert mean.y.isnan().tolist() == [False, False, True]
    assert not mean.among
    assert all(h.among for h in heads)


def test_functions_and_singular_values():
    model, _ = small("karat_tiny_g3b")
    curve = figure("karat_tiny_g3b", "Learned functions").rows[-1].curves[-1]
    want = learned_curves(model, points=61)[-1].values[0, -1, 0]
    torch.testing.assert_close(curve.y, want)
    for one in figure("karat_tiny_g3b", "Singular values").rows[0].curves:
        assert one.y[0].item() == pytest.approx(0)
        assert (one.y.diff()[one.y.diff().isfinite()] <= 1e-9).all()


def test_a_few_of_many():
    assert spread_over(range(5)) == [0, 1, 2, 3, 4]
    assert spread_over(range(24), 4) == [0, 8, 15, 23]


def test_any_attention_has_figures():
    deit = next(s for s in SMALL if s.name == "deit_tiny")
    model = deit.build()
    assert figures_of(model) == (CENTRE, DISTANCE)
    mixer = mixer_of(model, deit.batch(1), "x", AXES)
    assert [f.title for f in mixer.figures] == [CENTRE.title, DISTANCE.title]


def own(*shows: Figure) -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(2))
    net(torch.zeros(1, 3, 8, 8))
    net.card = Card("own", "", shows=shows)
    return net


def test_what_cannot_be_drawn_is_named():
    x = torch.rand(1, 3, 8, 8)
    good = Figure("The filters", "tables", sites=("0.weight",))
    bad = Figure("The class token", "class")
    mixer = mixer_of(own(good, bad), x, "x", AXES)
    assert [f.title for f in mixer.figures] == ["The filters"]
    ((title, reason),) = mixer.undrawn
    assert title == "The class token"
    assert "no attention that the probe knows" in reason
    with pytest.raises(OptionError, match=r"mixer=True finds nothing to draw: .*no attention"):
        mixer_of(own(bad), x, "x", AXES)
    with pytest.raises(OptionError, match="figure 'a' is to draw 'b': write one of 'channels', "):
        mixer_of(own(Figure("a", "b")), x, "x", AXES)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="card names no figures and no attention of it is known"):
        mixer_of(own(), x, "x", AXES)


def test_only_pictures_have_figures():
    net = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(OptionError, match="draws over pictures, token ids, or what several"):
        ll.explain(net, methods="gradient", inputs=torch.rand(1, 3), mixer=True)


def explained(name: str = "litv2_s") -> Explanation:
    model, _ = small(name)
    return ll.explain(model, [picture(0), picture(1)], "gradcam", mixer=True)


def test_the_page_holds_the_numbers(tmp_path: Path):
    shown = explained()
    assert shown.mixer is not None
    assert shown.mixer.sample == "picture 1"
    page = shown.save(tmp_path / "a.html").read_text()
    figures = data_of(page)["figures"]
    maps = maps_in(shown.mixer)
    assert len(figures) == len(maps) == page.count('<canvas role="img" aria-label=')
    for entry, m in zip(figures, maps, strict=True):
        assert entry["kind"] == "image"
        assert entry["at"] == [0]
        width = max(float(m.values.max() - m.values.min()), 1e-9) / 200
        np.testing.assert_allclose(values_of(entry), m.values, atol=width)
    alike = [len(row.maps) for f in shown.mixer.figures for row in f.rows if row.alike and row.maps]
    groups = [entry["group"] for entry in figures]
    assert len(set(groups)) == len(groups) - sum(n - 1 for n in alike)
    plain = render(replace(shown, mixer=None))
    assert "figures" not in data_of(plain)
    assert "What the mixer does" not in plain
    assert len(page) - len(plain) < 100_000


def test_names_from_outside_are_text():
    m = SaliencyMap(torch.rand(2, 2), "y x", "dog", "any", EVIL, Site(EVIL), (0, 0, 8, 8))
    curve = Curve(EVIL, torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))
    rows = (FigureRow(EVIL, ((EVIL, m),)), FigureRow(EVIL, curves=(curve,), x=EVIL, y=EVIL))
    figures = (MixerFigure(EVIL, EVIL, rows, EVIL),)
    calm = tuple(replace(r, label="a") for r in rows)
    photos = (Photo("dog", picture(0, 8)),)
    pages = [
        render(Explanation(Maps(), photos, mixer=mixer))
        for mixer in (
            Mixer("dog", figures, ((EVIL, EVIL),)),
            Mixer("dog", (MixerFigure("a", "b", calm),), (("a", "b"),)),
        )
    ]
    assert pages[0].count("<script") == pages[1].count("<script") == 2
    assert elements(pages[0])[0] <= elements(pages[1])[0]
    assert not [name for name in elements(pages[0])[1] if name.startswith("on")]


def chart(*curves: Curve):
    (article,) = section(
        Mixer("x", (MixerFigure("a", "", (FigureRow("", curves=curves, x="layers", y="b"),)),))
    ).figures
    return article.rows[0].chart


def test_a_chart_leaves_gaps_and_names_its_scales():
    x = torch.arange(4.0)
    line = Curve("mean", x, torch.tensor([0.0, 1.0, torch.nan, 0.5]))
    dots = Curve("head 0", x, torch.tensor([0.25, torch.nan, torch.nan, 0.75]), among=True)
    drawn = chart(line, dots)
    (path,) = [one.path for one in drawn.lines]
    assert path == "M7.0 212.0h0L37.67 14.0M99.0 113.0h0"
    assert [(d.x, d.y) for d in drawn.dots] == [(7.0, 162.5), (99.0, 63.5)]
    assert [words for _, words in drawn.places] == ["0", "1", "2", "3"]
    assert {words for _, words in drawn.levels} >= {"0", "1"}
    assert drawn.heads == "1 head"
    assert drawn.summary == "a: mean 0 .. 1"


def test_a_chart_of_one_place_or_no_number():
    alone = chart(Curve("a", torch.zeros(1), torch.full((1,), 7.0)))
    assert [x for x, _ in alone.places] == [53.0]
    empty = chart(Curve("a", torch.zeros(1), torch.full((1,), torch.nan)))
    assert empty.lines[0].path == ""
    assert empty.summary == "a: a without numbers"

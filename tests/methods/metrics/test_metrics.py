"""Scores of maps against Quantus' and TorchRay's values, scipy, scikit-learn and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fill import image
from shared import golden

from limelight.methods.metrics.complexity import complexity, effective_complexity, sparseness
from limelight.methods.metrics.localisation import (
    auc,
    average_ranks,
    energy_pointing,
    iou,
    pointing,
    relevance_mass,
    relevance_rank,
    top_k,
)
from limelight.methods.metrics.registry import interval, list_metrics, metric, use_metric
from limelight.methods.metrics.similarity import pearson, spearman, ssim
from limelight.probe.errors import MethodError, OptionError


@pytest.fixture(scope="module")
def case():
    found = golden("method_metrics")
    seed = found.case["seed"]
    draw = np.random.RandomState(seed)
    maps = image((6, 1, 64, 64), seed)
    centres = draw.randint(8, 56, (6, 2))
    y, x = np.mgrid[:64, :64]
    masks = np.zeros((6, 64, 64), bool)
    wide = maps.astype(np.float64)
    for n, (cy, cx) in enumerate(centres):
        wide[n, 0] += 6 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 80)
    for n in range(6):
        y0, x0 = draw.randint(4, 36, 2)
        h, w = draw.randint(10, 24, 2)
        masks[n, y0 : y0 + h, x0 : x0 + w] = True
        assert [y0, x0, h, w] == found.case["boxes_y0_x0_h_w"][n]
    return found, torch.from_numpy(wide.astype(np.float32))[:, 0], torch.from_numpy(masks)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("key", "score"),
    [
        ("PointingGame", lambda a, m: pointing(a, m, tolerance=0)),
        ("torchray.pointing", lambda a, m: 2 * pointing(a, m) - 1),
        ("RelevanceMassAccuracy", lambda a, m: relevance_mass(a, m, part="signed")),
        ("RelevanceMassAccuracy.abs", lambda a, m: relevance_mass(a, m, part="absolute")),
        ("RelevanceRankAccuracy", relevance_rank),
        ("TopKIntersection", lambda a, m: top_k(a, m, k=100)),
        ("AUC", auc),
        ("AttributionLocalisation", energy_pointing),
        ("energy_pointing", energy_pointing),
        ("Sparseness", lambda a, m: sparseness(a)),
        ("Complexity", lambda a, m: complexity(a)),
        ("EffectiveComplexity", lambda a, m: effective_complexity(a, eps=0.5)),
    ],
)
def test_scores_equal_quantus_and_torchray(case, key, score):
    found, maps, masks = case
    want = torch.from_numpy(found.arrays[key]).double().flatten()
    torch.testing.assert_close(score(maps, masks), want, rtol=1e-5, atol=1e-6)


def test_a_constant_map_scores_nan_everywhere(case):
    _, _, masks = case
    flat = torch.full((6, 64, 64), 0.5)
    for one in list_metrics():
        ours = one.function.__module__.startswith("limelight.")
        if ours and "model" not in one.needs:
            parts = {"saliency": flat, "mask": masks}
            assert one.function(*(parts[n] for n in one.needs)).isnan().all(), one.name


def test_pointing_is_strict_at_its_tolerance():
    mask = torch.zeros(1, 40, 40, dtype=torch.bool)
    mask[0, 20, 20] = True
    for away, hit in ((14, 1.0), (15, 0.0)):
        saliency = torch.zeros(1, 40, 40)
        saliency[0, 20, 20 - away] = 1
        assert float(pointing(saliency, mask)) == hit


def test_overlap_by_hand():
    saliency = torch.tensor([[[0.0, 1.0], [0.9, 0.2]]])
    mask = torch.tensor([[[False, True], [False, True]]])
    assert float(iou(saliency, mask)) == pytest.approx(1 / 3)


def test_ranks_and_correlations_equal_scipy():
    from scipy import stats

    draw = torch.Generator().manual_seed(0)
    a = torch.randint(0, 6, (2, 5, 7), generator=draw).double()
    b = torch.randn(2, 5, 7, generator=draw)
    for n in range(2):
        x, y = a[n].flatten().numpy(), b[n].flatten().numpy()
        np.testing.assert_allclose(average_ranks(a.flatten(1))[n], stats.rankdata(x))
        assert float(spearman(a, b)[n]) == pytest.approx(stats.spearmanr(x, y).statistic)
        assert float(pearson(a, b)[n]) == pytest.approx(stats.pearsonr(x, y).statistic)
    assert spearman(a, torch.ones_like(b)).isnan().all()


def test_ssim_equals_its_definition_and_is_one_for_equal_maps():
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.rand(1, 9, 11, generator=draw, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(ssim(a, a), torch.ones(1, dtype=torch.float64))
    one, two = ((x - x.min()) / (x.max() - x.min()) for x in (a[0], b[0]))
    found = []
    for i in range(3):
        for j in range(5):
            p, q = (x[i : i + 7, j : j + 7].flatten() for x in (one, two))
            cov = ((p - p.mean()) * (q - q.mean())).sum() / 48
            top = (2 * p.mean() * q.mean() + 1e-4) * (2 * cov + 9e-4)
            found.append(
                top / ((p.mean() ** 2 + q.mean() ** 2 + 1e-4) * (p.var() + q.var() + 9e-4))
            )
    torch.testing.assert_close(ssim(a, b)[0], torch.stack(found).mean())


def test_the_interval_holds_the_mean_and_shrinks():
    few = interval([0.0, 1.0] * 5)
    many = interval([0.0, 1.0] * 200 + [float("nan")])
    assert few[0] == many[0] == 0.5
    assert few[1] < many[1] < 0.5 < many[2] < few[2]
    assert interval([float("nan")])[0] != interval([float("nan")])[0]


def test_scores_by_name():
    asked = use_metric("pointing,tolerance=0")
    assert (asked.name, dict(asked.options)) == ("pointing,tolerance=0.0", {"tolerance": 0.0})
    with pytest.raises(MethodError, match="did you mean 'pointing'"):
        use_metric("pointin")
    with pytest.raises(OptionError, match="tolerance"):
        use_metric("pointing,radius=3")
    with pytest.raises(MethodError, match="takes colour"):
        metric("test_colour", "Complexity")(lambda colour: colour)
    with pytest.raises(MethodError, match="takes nothing"):
        metric("test_nothing", "Complexity")(lambda: 1)


def test_a_metric_is_bound_like_a_method():
    assert use_metric("pointing:3") == use_metric("pointing, tolerance = 3.0")
    assert use_metric("pointing:15").name == "pointing"
    assert use_metric("relevance_mass:signed").name == "relevance_mass:signed"
    assert use_metric("relevance_mass,part=signed").name == "relevance_mass:signed"
    assert use_metric(pointing) == use_metric("pointing")
    with pytest.raises(OptionError, match=r"no option 'tolerence' \(it has: tolerance\); did you"):
        use_metric("pointing,tolerence=3")
    with pytest.raises(MethodError, match=r"is no metric: give a name, or .* @limelight\.metric"):
        use_metric(print)
    with pytest.raises(MethodError, match="did you mean 'class_sensitivity'"):
        use_metric("class_sensitivty", also=["class_sensitivity"])


def test_a_metric_gives_one_number_a_map():
    whole = metric("test_whole", "Complexity")(lambda saliency: saliency.mean())
    stack = torch.rand(3, 4, 4)
    with pytest.raises(MethodError, match=r"'test_whole' must give one number .* 3 maps, .*\(\)"):
        use_metric(whole)(stack)
    metric("test_whole", "Complexity")(lambda saliency: 1.0)
    with pytest.raises(MethodError, match="but gave float"):
        use_metric("test_whole")(stack)

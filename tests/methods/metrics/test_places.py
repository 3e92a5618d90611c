"""Scores of maps over places of any number: closed forms on linear models, what is refused."""

from __future__ import annotations

from math import prod

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.methods.metrics import faithfulness as faith
from limelight.methods.metrics.localisation import pointing, relevance_mass
from limelight.methods.metrics.neighbours import blurred, impute, patch_means
from limelight.methods.metrics.perturbed_scores import BASELINES, Scorer
from limelight.methods.metrics.randomisation import cascade, random_logit
from limelight.methods.metrics.registry import list_metrics
from limelight.methods.metrics.similarity import ssim
from limelight.probe.errors import OptionError

SIZES = ((12,), (5, 6), (3, 4, 5))


class Linear(nn.Module):
    """Two classes of samples of any shape; the first weighs each value."""

    def __init__(self, weight: Tensor, batch: int = 0) -> None:
        super().__init__()
        self.weight, self.batch = nn.Parameter(weight), batch

    def forward(self, x: Tensor) -> Tensor:
        logit = (x.movedim(self.batch, 0) * self.weight).flatten(1).sum(1)
        return torch.stack([logit, torch.zeros_like(logit)], 1)


def prepared(size: tuple[int, ...]) -> tuple[Scorer, Tensor]:
    """A linear model of two channels over the places, and the exact map."""
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(2, *size, generator=draw)
    weight = torch.randn(2, *size, generator=draw)
    scorer = Scorer(Linear(weight), x, 0, explain=lambda x: x.sum(1), batch=5)
    return scorer, (x * weight).sum(0)


@pytest.mark.parametrize("size", SIZES)
def test_deletion_takes_the_largest_first(size: tuple[int, ...]) -> None:
    scorer, exact = prepared(size)
    count = prod(size)
    curve = faith.deletion_curve(exact, scorer, steps=count)
    left = exact.sum() - exact.flatten().sort(descending=True).values.cumsum(0)
    want = torch.cat([exact.sum()[None], left]).double().sigmoid()
    torch.testing.assert_close(curve, want, rtol=1e-4, atol=1e-5)
    ours, other = (faith.insertion(m, scorer, baseline="zero") for m in (exact, -exact))
    assert ours > other


@pytest.mark.parametrize("size", SIZES)
def test_exact_maps_of_linear_models_are_faithful(size: tuple[int, ...]) -> None:
    scorer, exact = prepared(size)
    assert faith.sensitivity_n(exact, scorer, n=4) == pytest.approx(1.0, abs=1e-4)
    single = Scorer(Linear(torch.randn(1, *size)), torch.rand(1, *size), 0)
    weight = single.model.weight[0].detach()
    assert faith.infidelity(weight, single, normalise=False) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_regions_drop_what_they_weigh(size: tuple[int, ...]) -> None:
    scorer, exact = prepared(size)
    drops = faith.region_drops(exact, scorer, patch=2, regions=3, baseline="zero")
    mass = patch_means(exact[None].double(), 2)[0]
    logit, taken = exact.sum(), []
    for place in mass.flatten().argsort(descending=True)[:3]:
        area = torch.unravel_index(place, mass.shape)
        window = tuple(slice(2 * int(at), 2 * int(at) + 2) for at in area)
        logit = logit - exact[window].sum()
        taken.append(exact.sum().sigmoid() - logit.sigmoid())
    torch.testing.assert_close(drops, torch.stack(taken).double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_every_score_by_perturbation_is_a_number(size: tuple[int, ...]) -> None:
    scorer, exact = prepared(size)
    options = {"sensitivity_n": {"n": 4}, "region_perturbation": {"patch": 2}}
    for one in list_metrics():
        if one.group == "Faithfulness" and one.function.__module__.startswith("limelight."):
            value = one.function(exact, scorer, **options.get(one.name, {}))
            assert value == value, one.name


@pytest.mark.parametrize("size", [(15,), (9, 12), (7, 8, 9)])
def test_imputing_a_linear_ramp_leaves_it(size: tuple[int, ...]) -> None:
    ramp = torch.arange(float(size[-1])).expand(1, *size)
    gone = torch.zeros(size, dtype=torch.bool)
    gone[tuple(slice(n // 3, n // 3 + 3) for n in size)] = True
    torch.testing.assert_close(impute(ramp, gone, close=1e-6), ramp, rtol=0, atol=1e-3)


def test_a_missing_step_of_a_series_is_the_mean_of_its_neighbours() -> None:
    x = torch.tensor([[1.0, 4.0, 9.0, 16.0]])
    gone = torch.tensor([False, False, True, False])
    torch.testing.assert_close(impute(x, gone)[0], torch.tensor([1.0, 4.0, 10.0, 16.0]))


@pytest.mark.parametrize("size", [(31,), (21, 21), (13, 14, 15)])
def test_blurring_is_the_product_of_lines(size: tuple[int, ...]) -> None:
    middle = tuple(n // 2 for n in size)
    x = torch.zeros(1, *size, dtype=torch.float64)
    x[(0, *middle)] = 1
    line = (-((torch.arange(11.0, dtype=torch.float64) - 5) ** 2) / 50).exp()
    line = line / line.sum()
    want = torch.ones((), dtype=torch.float64)
    for n in size:
        padded = torch.zeros(n, dtype=torch.float64)
        padded[n // 2 - 5 : n // 2 + 6] = line
        want = want[..., None] * padded
    torch.testing.assert_close(blurred(x)[0], want)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", BASELINES)
def test_baselines(name: str, size: tuple[int, ...]) -> None:
    scorer, _ = prepared(size)
    found = scorer.baseline(name)
    assert found.shape == scorer.x.shape
    assert scorer.x.min() - 1e-6 <= found.min() or name in ("zero", "blur")
    assert found.max() <= scorer.x.max() + 1e-6
    if name == "mean":
        torch.testing.assert_close(found[1], scorer.x[1].mean().expand(size))


def test_a_baseline_may_be_a_tensor() -> None:
    scorer, exact = prepared((12,))
    for given in (torch.zeros(2, 12), torch.zeros(12), torch.zeros(2, 1)):
        found = faith.deletion(exact, scorer, baseline=given)
        assert found == faith.deletion(exact, scorer, baseline="zero")
    with pytest.raises(OptionError, match=r"shape \(3,\) was given, but the sample is \(2, 12\)"):
        faith.deletion(exact, scorer, baseline=torch.zeros(3))


@pytest.mark.parametrize(
    ("shape", "batch", "said", "axes"),
    [
        ((1, 2, 9), 0, "b c t", "t"),
        ((9, 1, 2), 1, "t b c", "t"),
        ((1, 5, 4, 2), 0, "b y x c", "y x"),
        ((1, 2, 3, 4, 5), 0, "b c z y x", "z y x"),
        ((1, 7), 0, "b c", "c"),
    ],
)
def test_a_scorer_asks_models_in_their_own_layout(shape, batch, said, axes) -> None:
    torch.manual_seed(0)
    x = torch.rand(shape)
    model = Linear(torch.randn(x.squeeze(batch).shape), batch)
    scorer = Scorer.of(model, x, 0, axes={"input": said})
    (m,) = ll.maps(model, x, "input_x_gradient", target=0, axes={"input": said})
    assert scorer.axes == m.axes == axes
    assert scorer.x.shape[1:] == m.values.shape
    logit = model(x)[0, 0].item()
    assert float(scorer(scorer.x[None], logits=True)) == pytest.approx(logit, rel=1e-5)
    assert faith.sensitivity_n(m.values, scorer, n=3) == pytest.approx(1.0, abs=1e-4)
    curve = faith.deletion_curve(m.values, scorer)
    assert float(curve[-1]) == pytest.approx(0.5)


def test_a_scorer_keeps_the_other_inputs() -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            logit = x.sum((1, 2)) * scale[:, 0]
            return torch.stack([logit, torch.zeros_like(logit)], 1)

    x, scale = torch.rand(1, 2, 9), torch.tensor([[3.0]])
    said = {"input": "b c t"}
    scorer = Scorer.of(Scaled(), (x, scale), 0, axes=said)
    copies = torch.stack([x[0], 2 * x[0]])
    want = 3 * x.sum().double()
    torch.testing.assert_close(scorer(copies, logits=True), torch.stack([want, 2 * want]))
    with pytest.raises(OptionError, match="asks about one sample, but was given 2"):
        Scorer.of(Scaled(), (torch.rand(2, 2, 9), torch.ones(2, 1)), 0, axes=said)


def test_features_of_a_table_have_no_neighbours() -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 30)
    scorer = Scorer.of(Linear(torch.randn(30)), x, 0, axes={"input": "b c"})
    exact = torch.randn(30)
    words = "features of a table lie in no order"
    with pytest.raises(OptionError, match=f"baseline='blur' reads what lies around .* {words}"):
        faith.insertion(exact, scorer)
    for ask in (
        lambda: faith.road(exact, scorer),
        lambda: faith.region_perturbation(exact, scorer),
        lambda: scorer.baseline("mean"),
    ):
        with pytest.raises(OptionError, match=words):
            ask()
    assert 0 <= faith.deletion(exact, scorer) <= 1
    assert faith.region_perturbation(exact, scorer, patch=1, baseline="zero") != 0


def test_pointing_counts_steps_along_every_axis() -> None:
    for size, far in (((40,), 14), ((40, 9), 14), ((20, 9, 9), 14)):
        middle = (far, *[4] * (len(size) - 1))
        mask, saliency = torch.zeros(1, *size, dtype=torch.bool), torch.zeros(1, *size)
        mask[(0, *middle)] = True
        saliency[(0, 0, *middle[1:])] = 1
        assert float(pointing(saliency, mask, tolerance=15)) == 1
        assert float(pointing(saliency, mask, tolerance=14)) == 0
        assert float(pointing(saliency, mask, tolerance=0)) == 0
        assert float(relevance_mass(saliency, mask)) == 0
    aside, mask = torch.zeros(1, 9, 9, 9), torch.zeros(1, 9, 9, 9, dtype=torch.bool)
    aside[0, 2, 3, 4], mask[0, 4, 6, 4] = 1, True  # sqrt(4 + 9) away
    assert float(pointing(aside, mask, tolerance=3.7)) == 1
    assert float(pointing(aside, mask, tolerance=3.6)) == 0


def test_ssim_of_series_and_volumes() -> None:
    draw = torch.Generator().manual_seed(0)
    for size in ((30,), (8, 9, 10)):
        a, b = (torch.rand(2, *size, generator=draw, dtype=torch.float64) for _ in range(2))
        torch.testing.assert_close(ssim(a, a), torch.ones(2, dtype=torch.float64))
        assert (ssim(a, b) < 0.9).all()
    a, b = (torch.rand(1, 9, generator=draw, dtype=torch.float64) for _ in range(2))
    one, two = ((x[0] - x.min()) / (x.max() - x.min()) for x in (a, b))
    found = []
    for i in range(3):
        p, q = one[i : i + 7], two[i : i + 7]
        cov = ((p - p.mean()) * (q - q.mean())).sum() / 6
        top = (2 * p.mean() * q.mean() + 1e-4) * (2 * cov + 9e-4)
        found.append(top / ((p.mean() ** 2 + q.mean() ** 2 + 1e-4) * (p.var() + q.var() + 9e-4)))
    torch.testing.assert_close(ssim(a, b), torch.stack(found).mean()[None])


def test_sanity_checks_of_series() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(2, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    x = torch.randn(2, 2, 20)
    assert [c.layer for c in cascade(net, x, "gradient")] == ["4", "0"]
    assert random_logit(net, x, "gradient").spearman < 0.99
    with pytest.raises(OptionError, match="but 4 came for 2; name one method at one site"):
        random_logit(net, x, ["gradient", "input_x_gradient"])


class Parts(nn.Module):
    """Logits, a picture twice as bright, and probabilities that the model made itself."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = torch.stack([x.sum((1, 2, 3)), x[:, 0].sum((1, 2))], 1)
        return {"scores": logits, "picture": 2 * x, "made": (logits / 10).softmax(1)}


def test_a_scorer_asks_what_a_target_asks() -> None:
    draw = torch.Generator().manual_seed(1)
    x, copies = torch.rand(2, 4, 5, generator=draw), torch.rand(7, 2, 4, 5, generator=draw) - 0.5
    found = Parts()(copies.double())
    both = found["scores"].softmax(1)
    black = ll.difference(torch.zeros(2, 4, 5), at="picture")
    asked = {
        "label": (ll.label(1, at="scores"), both[:, 1]),
        "made": (ll.label(0, at="made"), found["made"][:, 0]),
        "top": (ll.top(at="scores"), both[:, 0]),  # of x, for every copy
        "margin": (ll.margin(0, 1, at="scores"), both[:, 0] - both[:, 1]),
        "pixel": (ll.pixel(1, 2, 0, at="picture"), found["picture"].softmax(1)[:, 0, 1, 2]),
        "difference": (black, found["picture"].abs().mean((1, 2, 3))),
    }  # fmt: skip
    for name, (target, want) in asked.items():
        scorer = Scorer(Parts(), x, target, batch=3)
        torch.testing.assert_close(scorer(copies), want, msg=name)
    for name, want in (("label", found["scores"][:, 1]), ("difference", asked["difference"][1])):
        scores = Scorer(Parts(), x, asked[name][0])(copies, logits=True)
        torch.testing.assert_close(scores, want, msg=name)
    named = ll.label("second", at="scores")
    net = Parts()
    net.classes = ["first", "second"]
    scorer = Scorer.of(net, x[None], named, axes={"input": "b c y x"})
    torch.testing.assert_close(scorer(copies), asked["label"][1])
    series = ll.inputs(torch.rand(1, 5, 2), axes={"0": "b t c"})
    assert Scorer.of(nn.Sequential(nn.Flatten(), nn.Linear(10, 2)), series, 0).axes == "t"

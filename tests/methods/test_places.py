"""Methods at the input over every kind of places: closed forms of linear nets, completeness."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch
from methods_golden import generators, run
from torch import Tensor, nn

import limelight as ll
from limelight.methods.captum import ALGORITHMS
from limelight.methods.perturbation.rise import kept, mask
from limelight.probe.errors import OptionError


class Linear(nn.Module):
    """Three scores w . x + b of samples of one shape, batch first or at `batch`."""

    def __init__(self, *shape: int, batch: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, *shape))
        self.bias, self.batch = nn.Parameter(torch.randn(3)), batch

    def forward(self, x: Tensor) -> Tensor:
        flat = x.movedim(self.batch, 0).flatten(1)
        return flat @ self.weight.flatten(1).T + self.bias


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x.permute(0, 3, 1, 2)).tanh().mean((2, 3)))


class TimeFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][-1])


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        mixed, _ = self.attention(x, x, x, need_weights=False)
        return self.head((x + mixed).tanh().mean(1))


def pooled(conv: nn.Module, pool: nn.Module) -> nn.Module:
    return nn.Sequential(conv, nn.Tanh(), pool, nn.Flatten(), nn.Linear(4, 3))


@dataclass
class Kind:
    """A net, two samples, what is to be said of the axes, where the batch is, what a map has."""

    net: nn.Module
    x: Tensor
    said: dict[str, str] | None
    places: str
    size: tuple[int, ...]
    batch: int = 0
    channel: int = 1  # 0 for features, each a place of its own


def kind(name: str) -> Kind:
    torch.manual_seed(0)
    return {
        "series": lambda: Kind(
            pooled(nn.Conv1d(2, 4, 3), nn.AdaptiveAvgPool1d(1)), torch.randn(2, 2, 13),
            None, "t", (13,),
        ),
        "table": lambda: Kind(
            nn.Sequential(nn.Linear(10, 4), nn.Tanh(), nn.Linear(4, 3)), torch.randn(2, 10),
            None, "c", (10,), channel=0,
        ),
        "volume": lambda: Kind(
            pooled(nn.Conv3d(2, 4, 3), nn.AdaptiveAvgPool3d(1)), torch.randn(2, 2, 5, 6, 7),
            None, "t y x", (5, 6, 7),
        ),
        "scan": lambda: Kind(
            pooled(nn.Conv3d(1, 4, 3), nn.AdaptiveAvgPool3d(1)), torch.randn(2, 1, 5, 6, 7),
            {"input": "b c z y x"}, "z y x", (5, 6, 7),
        ),
        "spectrogram": lambda: Kind(
            pooled(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1)), torch.randn(2, 1, 8, 12),
            {"input": "b c f t"}, "f t", (8, 12),
        ),
        "tokens": lambda: Kind(Tokens(), torch.randn(2, 6, 8), None, "n", (6,), channel=2),
        "channels last": lambda: Kind(
            ChannelsLast(), torch.randn(2, 7, 8, 3), None, "y x", (7, 8), channel=3
        ),
        "time first": lambda: Kind(
            TimeFirst(), torch.randn(7, 2, 5), {"input": "t b c"}, "t", (7,), 1, channel=2
        ),
    }[name]()  # fmt: skip


KINDS = (
    "series", "table", "volume", "scan", "spectrogram", "tokens", "channels last", "time first",
)  # fmt: skip


def scores(case: Kind, x: Tensor) -> Tensor:
    with torch.no_grad():
        return case.net.eval()(x)[:, 1]


def linear(name: str) -> tuple[Kind, Tensor]:
    """The kind with a linear net for model, and w_i x_i of class 1 as `b`, places."""
    case = kind(name)
    sample = [side for dim, side in enumerate(case.x.shape) if dim != case.batch]
    case.net = Linear(*sample, batch=case.batch)
    batch_first = case.x.movedim(case.batch, 0)
    shares = (case.net.weight[1] * batch_first).detach()
    places = [p for p in case.places.split() if p != "c"]
    order = iter(places) if case.channel else iter(("c",))
    names = ["b" if d == case.batch else "c" if d == case.channel else next(order)
             for d in range(case.x.ndim)]  # fmt: skip
    case.said = {"input": " ".join(names)}
    if case.channel:
        shares = shares.sum(case.channel - (case.batch < case.channel) + 1)
    return case, shares


@pytest.mark.parametrize("name", KINDS)
def test_windows_of_one_place_give_the_shares_of_a_linear_net(name: str) -> None:
    case, shares = linear(name)
    found = run("occlusion,window=1,stride=1,batch=7", case.net, case.x, 1, axes=case.said)
    torch.testing.assert_close(found, shares, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    "method", ["input_x_gradient", "integrated_gradients,n=3", "captum:input_x_gradient",
               "captum:integrated_gradients,n=3", "captum:deep_lift"],
)  # fmt: skip
def test_gradients_give_the_shares_of_a_linear_net(name: str, method: str) -> None:
    case, shares = linear(name)
    found = run(method, case.net, case.x, 1, axes=case.said)
    torch.testing.assert_close(found, shares, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "method",
    ["occlusion:1,stride=1", "integrated_gradients,n=3", "captum:integrated_gradients,n=3"],
)
@pytest.mark.parametrize("start", [0.0, 1 - 2j])
def test_complex_inputs_are_their_real_and_imaginary_parts(method: str, start: complex) -> None:
    class Heard(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4, 6, dtype=torch.complex64))

        def forward(self, x: Tensor) -> Tensor:
            return (x[:, None] * self.weight.conj()).real.sum((2, 3))

    torch.manual_seed(0)
    net, x = Heard(), torch.randn(2, 4, 6, dtype=torch.complex64)
    spec = ll.use(method, baseline=torch.tensor(start))
    found = run(spec, net, x, 1, axes={"input": "b f t"})
    shares = (net.weight[1].conj() * (x - start)).real.detach()
    torch.testing.assert_close(found, shares, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "method", ["kernel_shap", "shapley_sampling,n=2", "feature_ablation", "occlusion"]
)
def test_each_feature_of_a_table_is_a_feature_of_captum(method: str) -> None:
    pytest.importorskip("sklearn")
    case, shares = linear("table")
    found = run(f"captum:{method}", case.net, case.x, 1)
    torch.testing.assert_close(found, shares, atol=1e-3, rtol=1e-2)


def test_a_linear_fit_has_enough_samples_for_many_features() -> None:
    pytest.importorskip("sklearn")
    torch.manual_seed(0)
    net, x = nn.Linear(60, 3), torch.randn(1, 60)
    found = run("captum:kernel_shap", net, x, 1)
    torch.testing.assert_close(found, (net.weight[1] * x).detach(), atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize(
    ("name", "baseline"),
    [(n, b) for n in KINDS for b in ("zero", "mean", "tensor") if (n, b) != ("table", "mean")],
)
def test_integrated_gradients_are_complete(name: str, baseline: str) -> None:
    case = kind(name)
    start = torch.zeros_like(case.x)
    given: Any = baseline
    if baseline == "tensor":
        given = torch.randn_like(case.x.select(case.batch, 0))
        start = start + given.unsqueeze(case.batch)
    if baseline == "mean":
        others = [d for d in range(case.x.ndim) if d not in (case.batch, case.channel)]
        start = case.x.mean(others, keepdim=True).expand_as(case.x)
    method = ll.use("integrated_gradients", n=60, baseline=given)
    found = run(method, case.net, case.x, 1, axes=case.said)
    gained = scores(case, case.x) - scores(case, start)
    assert found.shape == (2, *case.size)
    torch.testing.assert_close(found.flatten(1).sum(1), gained, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_occlusion_equals_a_loop_over_windows(name: str) -> None:
    case = kind(name)
    blank = torch.randn_like(case.x.select(case.batch, 0))
    method = ll.use("occlusion", window=3, stride=2, baseline=blank)
    maps = ll.maps(case.net, case.x, method, target=1, axes=case.said)
    assert {m.axes for m in maps} == {case.places}
    assert maps[0].extent == (*[0.0] * len(case.size), *map(float, case.size))
    dims = [d for d in range(case.x.ndim) if d not in (case.batch, case.channel)]
    dims = dims if case.channel else [1]
    fall, seen = torch.zeros(2, *case.size), torch.zeros(2, *case.size)
    starts = [[s for s in range(0, max(n - 3, 0) + 2, 2) if s < n] for n in case.size]
    for corner in product(*starts):
        hidden = torch.zeros_like(case.x, dtype=torch.bool)
        area: list[Any] = [slice(None)] * case.x.ndim
        for dim, at in zip(dims, corner, strict=True):
            area[dim] = slice(at, at + 3)
        hidden[tuple(area)] = True
        covered = torch.where(hidden, blank.unsqueeze(case.batch), case.x)
        drop = scores(case, case.x) - scores(case, covered)
        window = (slice(None), *(slice(at, at + 3) for at in corner))
        fall[window] += drop.reshape(2, *[1] * len(case.size))
        seen[window] += 1
    found = torch.stack([m.values for m in maps])
    torch.testing.assert_close(found, fall / seen, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_rise_equals_a_loop_over_masks(name: str) -> None:
    case = kind(name)
    found = run("rise,n=9,cells=3,p=0.4,batch=4", case.net, case.x, 1, axes=case.said)
    order = [case.batch, *([case.channel] if case.channel else [])]
    for i, generator in enumerate(generators(2)):
        total = torch.zeros(case.size)
        for _ in range(9):
            m = (
                kept(case.size, 0.4, generator)
                if case.places == "c"
                else mask(case.size, 3, 0.4, generator)
            )
            spread = m
            for dim in sorted(order):
                spread = spread.unsqueeze(dim)
            total += scores(case, case.x * spread)[i] * m
        torch.testing.assert_close(found[i], total / (9 * 0.4), rtol=1e-4, atol=1e-5)


def test_masks_of_rise_keep_their_share_over_any_places() -> None:
    generator = torch.Generator().manual_seed(0)
    for size in ((40,), (9, 10, 11)):
        masks = torch.stack([mask(size, 4, 0.3, generator) for _ in range(2000)])
        assert masks.shape == (2000, *size)
        assert (masks.mean(0) - 0.3).abs().max() < 0.06
        assert ((masks > 0) & (masks < 1)).any()
    features = torch.stack([kept((12,), 0.3, generator) for _ in range(2000)])
    assert set(features.unique().tolist()) == {0, 1}
    assert (features.mean(0) - 0.3).abs().max() < 0.06


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_captum_runs_over_any_places(name: str, algorithm: str) -> None:
    if algorithm in ("lime", "kernel_shap"):
        pytest.importorskip("sklearn")
    case = kind(name)
    exhaustive = algorithm == "shapley_values"  # all orders of 2 x 2 x 2 cells take a minute
    method = f"captum:{algorithm},n=8,cells={1 if exhaustive and len(case.size) > 2 else 2}"
    if name == "table" and algorithm in ("feature_permutation", "shapley_values"):
        with pytest.raises(OptionError, match=r"each is of one place|there are 10 of them"):
            run(method, case.net, case.x, 1)
        return
    found = run(method, case.net, case.x, 1, axes=case.said)
    assert found.shape == (2, *case.size)
    assert torch.isfinite(found).all()
    if algorithm not in ("guided_backprop", "deconvolution", "lime"):
        assert found.abs().max() > 0


CHANNELS = (
    "gradient:sum", "gradient_sum", "input_x_gradient", "integrated_gradients,n=3",
    "captum:input_x_gradient",
)  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("method", CHANNELS)
def test_maps_of_channels_add_up_to_the_map(name: str, method: str) -> None:
    case = kind(name)
    whole = ll.maps(case.net, case.x, method, target=1, axes=case.said)
    parts = ll.maps(case.net, case.x, f"{method},channels=true", target=1, axes=case.said)
    if name == "table":
        assert parts[0].axes == "c"
        torch.testing.assert_close(parts.stack(), whole.stack())
        return
    assert parts[0].axes == f"c {case.places}"
    assert parts[0].values.shape == (case.x.shape[case.channel], *case.size)
    assert parts[0].extent == whole[0].extent
    torch.testing.assert_close(parts.stack().sum(1), whole.stack(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["guided_backprop:sum", "deconvnet:sum", "lrp:epsilon"])
def test_maps_of_channels_of_rectified_nets_add_up(method: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))
    x = torch.randn(2, 2, 4, 5, 6)
    whole, parts = (run(f"{method}{more}", net, x, 1) for more in ("", ",channels=true"))
    assert parts.shape == (2, 2, 4, 5, 6)
    torch.testing.assert_close(parts.sum(1), whole, rtol=1e-4, atol=1e-6)


def test_channels_of_raw_statistics_are_signed() -> None:
    case = kind("series")
    for method in ("smoothgrad", "squaregrad", "vargrad"):
        whole = run(f"{method}:raw,n=3", case.net, case.x, 1)
        parts = run(f"{method}:raw,n=3,channels=true", case.net, case.x, 1)
        assert parts.shape == (2, 2, 13)
        torch.testing.assert_close(parts.abs().amax(1), whole)
    assert (run("smoothgrad:raw,n=3,channels=true", case.net, case.x, 1) < 0).any()


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("gradient,channels=true", "reduce='max' takes no sum; write reduce=sum"),
        ("smoothgrad,n=2,channels=true", "base='gradient' has none; write base=raw"),
        ("integrated_gradients,baseline=zer", "baseline is one of zero, mean, not 'zer'"),
        ("occlusion,baseline=grey", "baseline is one of zero, mean, not 'grey'"),
    ],
)
def test_what_cannot_be_asked_is_said(method: str, words: str) -> None:
    case = kind("series")
    with pytest.raises(OptionError, match=words):
        run(method, case.net, case.x, 1)


@pytest.mark.parametrize("name", ["integrated_gradients", "occlusion", "captum:deep_lift"])
def test_features_have_no_mean(name: str) -> None:
    case = kind("table")
    with pytest.raises(OptionError, match="features of a table have none; give a tensor"):
        run(f"{name},baseline=mean", case.net, case.x, 1)


@pytest.mark.parametrize(
    "name", ["integrated_gradients", "occlusion", "captum:deep_lift", "captum:feature_ablation"]
)
def test_a_tensor_of_zeros_is_the_baseline_zero(name: str) -> None:
    case = kind("tokens")
    want = run(name, case.net, case.x, 1)
    for shape in ((6, 8), (8,), (1, 6, 8), ()):
        found = run(ll.use(name, baseline=torch.zeros(shape)), case.net, case.x, 1)
        torch.testing.assert_close(found, want)
    with pytest.raises(OptionError, match=r"shape \(8, 6\) was given, but one sample .* \(6, 8\)"):
        run(ll.use(name, baseline=torch.zeros(8, 6)), case.net, case.x, 1)


def test_paths_from_equal_tensors_share_their_passes() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.samples = nn.Linear(4, 3), 0

        def forward(self, x: Tensor) -> Tensor:
            self.samples += len(x)
            return self.inner(x)

    def samples(*methods: Any) -> int:
        net = Counting()
        ll.maps(net, torch.randn(2, 4), list(methods), target=1)
        return net.samples

    def ask(start: Tensor, **options: Any) -> Any:
        return ll.use("integrated_gradients", n=5, baseline=start, **options)

    ones = torch.ones(4)
    one = samples(ask(ones))
    assert samples(ask(ones), ask(torch.ones(4), channels=True)) == one
    assert samples(ask(ones), ask(ones + 1)) > one


def test_a_tensor_is_named_and_not_written_out() -> None:
    case, start = kind("series"), torch.rand(2, 13)
    method = ll.use("integrated_gradients", n=2, baseline=start)
    assert method == ll.use("integrated_gradients", n=2, baseline=start.clone())
    assert hash(method) == hash(ll.use("integrated_gradients", n=2, baseline=start.clone()))
    assert method != ll.use("integrated_gradients", n=2, baseline=start + 1)
    (m,) = ll.maps(case.net, case.x[:1], method, target=1)
    told = dict(m.about.options)["baseline"]
    assert told.startswith("tensor 2x13 ")
    assert len(told) == len("tensor 2x13 ") + 12
    assert f"baseline={told}" in m.method
    before = m.values.clone()
    start.zero_()  # the option holds what was given
    assert torch.equal(ll.maps(case.net, case.x[:1], method, target=1)[0].values, before)


class TwoInputs(nn.Module):
    """A linear net of a series, scaled by another input of the sample."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 1, bias=False)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.conv(x).sum(2) * scale


@pytest.mark.parametrize(
    "method", ["occlusion:1,stride=1", "captum:feature_ablation,cells=13", "captum:deep_lift"]
)
def test_other_inputs_are_those_of_the_sample(method: str) -> None:
    torch.manual_seed(0)
    net, x, scale = TwoInputs(), torch.randn(2, 2, 13), torch.tensor([[2.0], [-3.0]])
    shares = (net.conv.weight[1] * x).detach() * scale[:, None]
    found = run(method, net, (x, scale), 1)
    times = 2 if "ablation" in method else 1  # captum gives the cell's number to both channels
    torch.testing.assert_close(found, times * shares.sum(1), rtol=1e-4, atol=1e-5)


def test_meta_takes_a_step_on_other_kinds_of_inputs() -> None:
    for name in ("volume", "time first"):
        case = kind(name)
        found = ll.maps(
            case.net, case.x, "meta,base=input_x_gradient,lr=0.5", target=1, sites="input",
            axes=case.said,
        )  # fmt: skip
        assert [m.axes for m in found] == [case.places] * 2
        for i, m in enumerate(found):
            alone = case.x.narrow(case.batch, i, 1)
            (again,) = ll.maps(
                stepped(case.net, alone, 0.5), alone, "input_x_gradient", target=1, axes=case.said
            )
            torch.testing.assert_close(m.values, again.values)


def stepped(net: nn.Module, x: Tensor, lr: float) -> nn.Module:
    """A copy of the net after a step of gradient descent towards class 1."""
    twin = copy.deepcopy(net).eval()
    nn.functional.cross_entropy(twin(x), torch.tensor([1])).backward()
    torch.optim.SGD(twin.parameters(), lr=lr).step()
    twin.zero_grad()
    return twin

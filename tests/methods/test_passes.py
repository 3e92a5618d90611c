"""Pass methods against plain loops: RISE, occlusion, the meta step."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from methods_golden import Runner, read
from torch import Tensor, nn

from limelight.methods.meta import inner_step
from limelight.methods.perturbation.occlusion import windows
from limelight.methods.perturbation.rise import mask
from limelight.probe.attribution.registry import use
from limelight.probe.errors import MethodError, OptionError
from limelight.probe.targets.target import label


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)
    )


def prepared(*size: int) -> tuple[nn.Module, Tensor]:
    net, x = small(), torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(1))
    net(x)
    return net.eval(), x


def test_rise_equals_a_loop() -> None:
    net, x = prepared(9, 11)
    runner, target = Runner(net), label([1, 2, 3])
    found = use("rise", n=20, cells=3, p=0.4, batch=7)(runner, x, target)
    for i, generator in enumerate(runner.generators(x)):
        total = torch.zeros(9, 11)
        for _ in range(20):
            m = mask((9, 11), 3, 0.4, generator)
            total += net(x[i : i + 1] * m)[0, i + 1].item() * m
        torch.testing.assert_close(found[i], total / (20 * 0.4), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, use("rise", n=20, cells=3, p=0.4)(runner, x, target))


def test_masks_of_rise() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.stack([mask((20, 31), 4, 0.3, generator) for _ in range(3000)])
    assert masks.shape == (3000, 20, 31)
    assert masks.min() >= 0
    assert masks.max() <= 1 + 1e-6
    assert (masks.mean(0) - 0.3).abs().max() < 0.05
    assert ((masks > 0) & (masks < 1)).any()


def test_rise_finds_the_only_pixel_that_counts() -> None:
    class Corner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :, 2, 9].sum(1, keepdim=True)

    found = use("rise", n=600, cells=4)(Runner(Corner()), torch.ones(1, 3, 12, 12), label(0))
    place = divmod(int(found[0].argmax()), 12)
    assert max(abs(place[0] - 2), abs(place[1] - 9)) <= 2


@pytest.mark.parametrize(("window", "stride"), [(4, 2), (3, 3), (4, 3), (20, 5)])
@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_occlusion_equals_a_loop(window: int, stride: int, baseline: str) -> None:
    net, x = prepared(9, 11)
    runner, target = Runner(net), label([1, 2, 3])
    options = {"window": window, "stride": stride, "baseline": baseline}
    found = use("occlusion", **options, batch=5)(runner, x, target)
    fall, seen = torch.zeros(3, 9, 11), torch.zeros(9, 11)
    blank = x.mean((2, 3), keepdim=True) if baseline == "mean" else torch.zeros(3, 3, 1, 1)
    y = 0
    while True:
        left = 0
        while True:
            covered = x.clone()
            covered[:, :, y : y + window, left : left + window] = blank
            drop = (target(net(x)) - target(net(covered))).detach()
            fall[:, y : y + window, left : left + window] += drop[:, None, None]
            seen[y : y + window, left : left + window] += 1
            if left + window >= 11:
                break
            left += stride
        if y + window >= 9:
            break
        y += stride
    assert seen.min() >= 1
    torch.testing.assert_close(found, fall / seen, rtol=1e-4, atol=1e-5)


def test_windows_cover_everything_with_few() -> None:
    assert len(windows(96, 96, 16, 16)) == 36
    assert len(windows(10, 7, 16, 8)) == 1


@pytest.mark.parametrize("spec", ["rise", "occlusion", "captum:occlusion"])
def test_only_pictures_have_parts_to_cover(spec: str) -> None:
    with pytest.raises(MethodError, match=r"but the input is \(2, 7, 5\)"):
        use(spec)(Runner(nn.Identity()), torch.zeros(2, 7, 5), label(0))


def test_impossible_options() -> None:
    net, x = prepared(9, 11)
    for spec in ("rise:0", "rise,p=0", "rise,p=1.5"):
        with pytest.raises(OptionError, match="rise takes"):
            use(spec)(Runner(net), x, label(0))
    for spec in ("occlusion:4,stride=5", "occlusion:4,stride=0"):
        with pytest.raises(OptionError, match="1 <= stride <= window"):
            use(spec)(Runner(net), x, label(0))


def test_meta_is_the_method_after_a_step_of_its_own_sample() -> None:
    net, x = prepared(9, 11)
    before = copy.deepcopy(net.state_dict())
    runner, target = Runner(net, "2"), label([1, 2, 3])
    found = use("meta", lr=0.1)(runner, x, target)
    for i in range(3):
        twin = copy.deepcopy(net)
        optimiser = torch.optim.SGD(twin.parameters(), lr=0.1)
        nn.functional.cross_entropy(twin(x[i : i + 1]), torch.tensor([i + 1])).backward()
        optimiser.step()
        expected = read(twin, x[i : i + 1], label(i + 1), ["2"])["2"](use("normgrad"))
        torch.testing.assert_close(found[i : i + 1], expected)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None for p in net.parameters())
    plain = read(net, x, target, ["2"])["2"](use("normgrad"))
    assert (found - plain).abs().max() > 1e-3


def test_meta_may_ascend_and_take_several_steps() -> None:
    net, x = prepared(9, 11)
    one, classes = x[:1], torch.tensor([1])

    def loss(weights: dict[str, Tensor]) -> float:
        out = torch.func.functional_call(net, weights, (one,))
        return nn.functional.cross_entropy(out, classes).item()

    start = loss({})
    down = inner_step(net, one, classes, 0.01)
    assert loss(inner_step(net, one, classes, 0.01, weights=down)) < loss(down) < start
    assert loss(inner_step(net, one, classes, 0.01, negate=True)) > start
    twice = use("meta", lr=0.01, steps=2)(Runner(net, "2"), one, label(1))
    assert not torch.equal(twice, use("meta", lr=0.01)(Runner(net, "2"), one, label(1)))


def test_meta_steps_on_dense_outputs() -> None:
    torch.manual_seed(0)
    net, x = nn.Conv2d(3, 4, 3), torch.randn(1, 3, 5, 6)
    new = inner_step(net, x, torch.tensor([2]), 0.5)
    out = net(x)
    nn.functional.cross_entropy(out, torch.full((1, 3, 4), 2)).backward()
    torch.testing.assert_close(new["bias"], (net.bias - 0.5 * net.bias.grad).detach())


def test_meta_leaves_finite_numbers_with_a_word() -> None:
    net, x = prepared(9, 11)
    with pytest.raises(MethodError, match=r"meta with lr=1e\+39 left the finite numbers.*lower lr"):
        use("meta", lr=1e39)(Runner(net, "2"), x, label(1))
    with pytest.raises(MethodError, match="lr=nan"):
        use("meta", lr=math.nan)(Runner(net, "2"), x, label(1))


def test_meta_wants_a_site_method_and_a_step() -> None:
    net, x = prepared(9, 11)
    with pytest.raises(OptionError, match="base is a site method"):
        use("meta:rise")(Runner(net, "2"), x, label(1))
    with pytest.raises(OptionError, match="steps counts from 1"):
        use("meta", steps=0)(Runner(net, "2"), x, label(1))

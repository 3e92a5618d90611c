"""Pass methods against plain loops: RISE, occlusion, the meta step."""

from __future__ import annotations

import copy

import pytest
import torch
from methods_golden import generators, read, run
from torch import Tensor, nn

from limelight.methods.meta import inner_step
from limelight.methods.perturbation.rise import mask
from limelight.methods.perturbation.windows import window_sizes, windows
from limelight.probe.attribution.registry import use
from limelight.probe.errors import MethodError, OptionError
from limelight.probe.targets.target import label

PICTURE = {"input": "b c y x"}


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
    target = label([1, 2, 3])
    found = run(use("rise", n=20, cells=3, p=0.4, batch=7), net, x, target)
    for i, generator in enumerate(generators(3)):
        total = torch.zeros(9, 11)
        for _ in range(20):
            m = mask((9, 11), 3, 0.4, generator)
            total += net(x[i : i + 1] * m)[0, i + 1].item() * m
        torch.testing.assert_close(found[i], total / (20 * 0.4), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, run(use("rise", n=20, cells=3, p=0.4), net, x, target))


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

    found = run(
        use("rise", n=600, cells=4), Corner(), torch.ones(1, 3, 12, 12), label(0), axes=PICTURE
    )
    place = divmod(int(found[0].argmax()), 12)
    assert max(abs(place[0] - 2), abs(place[1] - 9)) <= 2


@pytest.mark.parametrize(("window", "stride"), [(4, 2), (3, 3), (4, 3), (20, 5)])
@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_occlusion_equals_a_loop(window: int, stride: int, baseline: str) -> None:
    net, x = prepared(9, 11)
    target = label([1, 2, 3])
    options = {"window": window, "stride": stride, "baseline": baseline}
    found = run(use("occlusion", **options, batch=5), net, x, target)
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
    assert len(windows((96, 96), (16, 16), (16, 16))) == 36
    assert len(windows((10, 7), (16, 16), (8, 8))) == 1
    assert windows((5,), (2,), (2,)) == [(slice(0, 2),), (slice(2, 4),), (slice(4, 6),)]
    assert len(windows((8, 12, 10), (4, 4, 4), (4, 4, 4))) == 2 * 3 * 3


@pytest.mark.parametrize(
    ("axes", "shape", "window", "stride", "want"),
    [
        ("y x", (9, 300), None, None, ((16, 16), (8, 8))),
        ("y x", (8, 16), None, None, ((2, 4), (1, 2))),  # one window of 16 would hide all
        ("y x", (16, 17), None, None, ((16, 16), (8, 8))),
        ("y x", (9, 11), 4, None, ((4, 4), (4, 4))),
        ("y x", (9, 11), 32, None, ((32, 32), (8, 8))),
        ("y x", (9, 11), (4, 6), 3, ((4, 6), (3, 3))),
        ("c", (30,), None, None, ((1,), (1,))),
        ("n", (30,), None, None, ((1,), (1,))),
        ("c", (30,), 16, 8, ((16,), (8,))),
        ("t", (1000,), None, None, ((16,), (8,))),
        ("t", (40,), None, None, ((10,), (5,))),
        ("t", (3,), None, None, ((1,), (1,))),
        ("t y x", (8, 64, 64), None, None, ((2, 16, 16), (1, 8, 8))),
        ("t y x", (8, 16, 16), None, None, ((2, 16, 16), (1, 8, 8))),
    ],
)
def test_windows_fit_the_axes_unless_told(axes, shape, window, stride, want) -> None:
    assert window_sizes(axes, shape, window, stride) == want


def test_impossible_options() -> None:
    net, x = prepared(9, 11)
    for spec in ("rise:0", "rise,p=0", "rise,p=1.5"):
        with pytest.raises(OptionError, match="rise takes"):
            run(spec, net, x, label(0))
    for spec in ("occlusion:4,stride=5", "occlusion:4x4,stride=4x5"):
        with pytest.raises(OptionError, match="1 <= stride <= window along y x, not stride="):
            run(spec, net, x, label(0))
    with pytest.raises(OptionError, match="window=4x4x4 was given, but the input has the places y"):
        run(use("occlusion", window=(4, 4, 4)), net, x, label(0))
    with pytest.raises(OptionError, match="occlusion takes batch of 1 or more"):
        run("occlusion,batch=0", net, x, label(0))


def test_a_window_a_side_may_be_written_as_text() -> None:
    net, x = prepared(9, 11)
    named = use("occlusion:4x6,stride=2")
    assert named.name == "occlusion,window=4x6,stride=2"
    assert use(named.name) == named == use("occlusion", window=(4, 6), stride=2)
    torch.testing.assert_close(
        run(named, net, x, label(0)),
        run(use("occlusion", window=[4, 6], stride=2), net, x, label(0)),
    )


def test_meta_is_the_method_after_a_step_of_its_own_sample() -> None:
    net, x = prepared(9, 11)
    before = copy.deepcopy(net.state_dict())
    target = label([1, 2, 3])
    found = run(use("meta", lr=0.1), net, x, target, sites="2")
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
    twice = run("meta,lr=0.01,steps=2", net, one, label(1), sites="2")
    assert not torch.equal(twice, run("meta,lr=0.01", net, one, label(1), sites="2"))


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
        run(use("meta", lr=1e39), net, x, label(1), sites="2")


def test_meta_wants_a_site_method_and_a_step() -> None:
    net, x = prepared(9, 11)
    with pytest.raises(OptionError, match="base is a site method"):
        run("meta:rise", net, x, label(1), sites="2")
    with pytest.raises(OptionError, match="meta takes steps of 1 or more"):
        run(use("meta", steps=0), net, x, label(1), sites="2")

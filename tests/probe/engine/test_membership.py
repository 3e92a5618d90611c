"""Which inputs belong to samples and which serve all: said, or found by one sample apart."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.probe.engine.batch import Batch
from limelight.probe.engine.membership import told_apart
from limelight.probe.errors import LimelightError


class ZeroShot(nn.Module):
    """Pictures against prompts: a score for each prompt."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, image: Tensor, prompts: Tensor) -> Tensor:
        seen = F.normalize(self.conv(image).mean((2, 3)), dim=1)
        return seen @ F.normalize(prompts, dim=1).T


class Pair(nn.Module):
    """A picture and numbers of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8 + 5, 2)

    def forward(self, image: Tensor, row: Tensor) -> Tensor:
        return self.head(torch.cat([self.conv(image).mean((2, 3)), row], 1))


IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
PROMPTS = torch.randn(4, 8, generator=torch.Generator().manual_seed(2))
ROWS = torch.randn(4, 5, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("count", [1, 4])
def test_what_serves_all_and_what_belongs_to_a_sample_is_found(count) -> None:
    shared = told_apart(ZeroShot(), Batch.of((IMAGES[:count], PROMPTS[:count])))
    assert set(shared.rows) == {"0"}
    apiece = told_apart(Pair(), Batch.of((IMAGES[:count], ROWS[:count])))
    assert set(apiece.rows) == {"0", "1"}
    assert shared.doubtful == apiece.doubtful == ()


def test_one_input_is_never_in_doubt() -> None:
    batch = Batch.of(IMAGES)
    assert batch.doubtful == ()
    assert told_apart(nn.Identity(), batch) is batch


@pytest.mark.parametrize("method", ["occlusion,window=4,stride=4", "smoothgrad,n=2", "rise,n=4"])
def test_maps_of_samples_are_those_of_each_alone_with_all_prompts(method) -> None:
    net = ZeroShot()
    together = ll.maps(net, (IMAGES, PROMPTS), method, target=2)
    said = ll.maps(net, ll.inputs(IMAGES, PROMPTS, shared="1"), method, target=2)
    split = ll.maps(net, (IMAGES, PROMPTS), method, target=2, batch=1)
    torch.testing.assert_close(together.stack(), said.stack())
    torch.testing.assert_close(together.stack(), split.stack())
    if method.startswith("occlusion"):
        alone = [ll.maps(net, (IMAGES[i : i + 1], PROMPTS), method, target=2)[0] for i in range(4)]
        torch.testing.assert_close(together.stack(), torch.stack([m.values for m in alone]))


def test_what_cannot_be_told_is_asked_for() -> None:
    class Mixes(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return (a + b.mean() + a.mean()).sum((1, 2, 3))[:, None]

    with pytest.raises(LimelightError, match=r"whether 1 hold a row a sample .* shared=\['1'\]"):
        ll.maps(Mixes(), (IMAGES, ROWS), "smoothgrad,n=2", target=0)
    many = {str(n): ROWS for n in "abcdef"}
    with pytest.raises(LimelightError, match="there are too many to try"):
        told_apart(Pair(), Batch.of({"image": IMAGES, **many}))


def test_what_was_said_must_fit() -> None:
    with pytest.raises(
        LimelightError, match="an input 'prompts' was spoken of, but the inputs are"
    ):
        ll.inputs(IMAGES, PROMPTS, shared="prompts")
    with pytest.raises(LimelightError, match="the batch has 4 samples, but table holds 7 rows"):
        ll.inputs(IMAGES, table=torch.zeros(7, 2))
    assert set(ll.inputs(IMAGES, table=torch.zeros(7, 2), shared="table").rows) == {"0"}
    with pytest.raises(LimelightError, match=r"axes 'b c' were said for input '0'"):
        ll.inputs(IMAGES, axes={"0": "b c"})


class Columns(nn.Module):
    """Numbers beside what a picture tells, for one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8 + 5, 2)

    def forward(self, image: Tensor, row: Tensor) -> Tensor:
        return self.head(torch.cat([self.conv(image).mean((2, 3)), row], 1))


def test_columns_that_stand_beside_others_are_features() -> None:
    net = Columns()
    maps = ll.maps(net, (IMAGES, ROWS), "input_x_gradient", target=1, sites="input.1")
    assert {m.axes for m in maps} == {"c"}
    want = (net.head.weight[1, 8:] * ROWS).detach()
    torch.testing.assert_close(maps.stack(), want)


def test_axes_said_with_the_inputs_reach_every_call() -> None:
    net = nn.LSTM(8, 5)
    x = torch.randn(7, 4, 8, generator=torch.Generator().manual_seed(4))

    def score(out):
        return out[0][-1].sum(1)

    said = ll.inputs(x, axes={"0": "t b c"})
    assert len(said) == 4
    by_inputs = ll.maps(net, said, "gradient_sum", target=score)
    by_call = ll.maps(net, x, "gradient_sum", target=score, axes={"input": "t b c"})
    late = ll.maps(net, ll.inputs(x), "gradient_sum", target=score, axes={"input": "t b c"})
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(leaf)[0][-1].sum(), leaf)
    for maps in (by_inputs, by_call, late):
        torch.testing.assert_close(maps.stack(), slope.sum(2).mT)
    assert ll.trace(net, said, "input", target=score)["input"].axes == "t b c"


def test_an_input_that_has_a_row_a_sample_is_read_by_samples() -> None:
    """Its batch is known from the inputs, where no op beside it would tell."""

    class Apart(nn.Module):
        def forward(self, image: Tensor, film: Tensor) -> Tensor:
            seen = nn.functional.conv3d(film, torch.ones(1, 2, 2, 2, 2)).mean((1, 2, 3, 4))
            return torch.stack([image.mean((1, 2, 3)), seen.flatten()], 1)

    film = torch.randn(4, 2, 4, 5, 6, generator=torch.Generator().manual_seed(5))
    given = ll.inputs(IMAGES, film)
    maps = ll.maps(Apart(), given, "gradient_sum", target=1, sites="input.1")
    assert {m.axes for m in maps} == {"t y x"}
    leaf = film.clone().requires_grad_()
    (slope,) = torch.autograd.grad(Apart()(IMAGES, leaf)[:, 1].sum(), leaf)
    torch.testing.assert_close(maps.stack(), slope.sum(1))

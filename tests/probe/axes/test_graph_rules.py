"""What ops say of the dimensions they return, and of those they are given."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.probe.axes.graph_rules import RULES

SERIES, PICTURES, VOLUMES = (torch.randn(2, 4, *(8,) * d) for d in (1, 2, 3))


@pytest.mark.parametrize(
    ("module", "x", "given", "returned"),
    [
        (nn.Conv1d(4, 3, 3), SERIES, "b c t", "b c t"),
        (nn.Conv2d(4, 3, 3, stride=2), PICTURES, "b c y x", "b c y x"),
        (nn.Conv3d(4, 3, 3), VOLUMES, "b c t y x", "b c t y x"),
        (nn.ConvTranspose2d(4, 3, 2, 2), PICTURES, "b c y x", "b c y x"),
        (nn.Conv2d(4, 4, 3, groups=4), PICTURES, "b c y x", "b c y x"),
        (nn.BatchNorm1d(4), SERIES, "b c t", "b c t"),
        (nn.BatchNorm1d(4), torch.randn(3, 4), "b c", "b c"),
        (nn.BatchNorm2d(4), PICTURES, "b c y x", "b c y x"),
        (nn.GroupNorm(2, 4), VOLUMES, "b c t y x", "b c t y x"),
        (nn.MaxPool1d(2), SERIES, "b c t", "b c t"),
        (nn.AvgPool1d(2), SERIES, "b c t", "b c t"),
        (nn.AdaptiveAvgPool1d(3), SERIES, "b c t", "b c t"),
        (nn.MaxPool2d(2), PICTURES, "b c y x", "b c y x"),
        (nn.AdaptiveAvgPool2d(3), PICTURES, "b c y x", "b c y x"),
        (nn.AvgPool3d(2), VOLUMES, "b c t y x", "b c t y x"),
        (nn.Upsample(scale_factor=2), PICTURES, "b c y x", "b c y x"),
        (nn.Upsample(scale_factor=2, mode="trilinear"), VOLUMES, "b c t y x", "b c t y x"),
        (nn.ReflectionPad2d(1), PICTURES, "b c y x", "b c y x"),
        (nn.PixelShuffle(2), PICTURES, "b ? y x", "b c y x"),
        (nn.Linear(8, 3), torch.randn(2, 8), "b c", "b c"),
        (nn.Linear(8, 3), torch.randn(2, 5, 8), "b ? c", "b ? c"),
        (nn.Linear(8, 3, bias=False), torch.randn(2, 5, 6, 8), "b ? ? c", "b ? ? c"),
        (nn.LayerNorm(8), torch.randn(2, 5, 8), "b ? c", "b ? c"),
        (nn.RMSNorm(8), torch.randn(2, 5, 8), "b ? ?", "b ? ?"),
        (nn.LSTM(8, 3, batch_first=True), torch.randn(2, 5, 8), "b t c", "b t c"),
        (nn.GRU(8, 3, batch_first=True), torch.randn(2, 5, 8), "b t c", "b t c"),
        (nn.RNN(8, 3, 2, batch_first=True), torch.randn(2, 5, 8), "b t c", "b t c"),
        (nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(2, 5, 8), "b n c", "b n c"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_layers(axes_of, module, x, given, returned) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = module.eval()

        def forward(self, x: Tensor) -> Tensor:
            if isinstance(module, nn.MultiheadAttention):
                return self.part(x, x, x)[0]
            out = self.part(x)
            return out[0] if isinstance(out, tuple) else out

    axes = axes_of(Net(), x)
    assert axes["input"] == given
    assert axes["output"] == returned


B = {"input": "b c y x"}
X = torch.randn(2, 4, 6, 8)
W = torch.randn(8, 5)


@pytest.mark.parametrize(
    ("function", "axes"),
    [
        (lambda x: x.permute(0, 2, 3, 1), "b y x c"),
        (lambda x: x.transpose(1, -1), "b x y c"),
        (lambda x: x.movedim(1, -1), "b y x c"),
        (lambda x: x.flatten(2).transpose(1, 2), "b n c"),
        (lambda x: x.flatten(1), "b c*y*x"),
        (lambda x: x.flatten(0, 1), "b*c y x"),
        (lambda x: x.unflatten(1, (2, 2)), "b c c y x"),
        (lambda x: x.unflatten(1, (2, 2)).flatten(1, 2), "b c y x"),
        (lambda x: x[:, :, 0], "b c x"),
        (lambda x: x[..., 1:3], "b c y x"),
        (lambda x: x[:, None], "b ? c y x"),
        (lambda x: x[:, :, [2, 1]], "b c n x"),
        (lambda x: x[:, [2, 1]], "b c y x"),
        (lambda x: x.index_select(1, torch.tensor([0])), "b c y x"),
        (lambda x: x[:, :, [2, 1, 0, 3, 5, 4]][:, :, [2, 1, 0, 3, 5, 4]], "b c y x"),
        (lambda x: x[torch.arange(2), :, [3, 5]], "b c x"),
        (lambda x: x[:, torch.arange(4), [5, 0, 1, 1]], "b c x"),
        (lambda x: x[:, torch.tensor([True, False, True, False])], "b c y x"),
        (lambda x: x[:, [0, 1], [2, 3]], "b ? x"),
        (lambda x: x.flatten(2)[:, :, [5, 3]], "b c n"),
        (lambda x: x.unsqueeze(1).squeeze(1), "b c y x"),
        (lambda x: x.mean(2), "b c x"),
        (lambda x: x.mean((2, 3)), "b c"),
        (lambda x: x.amax(1, keepdim=True), "b c y x"),
        (lambda x: x.max(1).values, "b y x"),
        (lambda x: x.norm(dim=1), "b y x"),
        (lambda x: x.logsumexp(-1), "b c y"),
        (lambda x: x.std(3), "b c y"),
        (lambda x: torch.cat([x, x], 1), "b c y x"),
        (lambda x: torch.cat([x, x], 3), "b c y x"),
        (lambda x: torch.stack([x, x], 1), "b ? c y x"),
        (lambda x: x.split(2, 1)[1], "b c y x"),
        (lambda x: x.chunk(2, 3)[0], "b c y x"),
        (lambda x: x.unbind(2)[1], "b c x"),
        (lambda x: x.expand(2, 4, 6, 8), "b c y x"),
        (lambda x: x.repeat(1, 1, 2, 1), "b c y x"),
        (lambda x: x.roll(1, 3).flip(2).cumsum(2), "b c y x"),
        (lambda x: F.pad(x, (1, 1, 2, 2)), "b c y x"),
        (lambda x: x @ W, "b c y ?"),
        (lambda x: torch.randn(5, 6) @ x, "b c ? x"),
        (lambda x: x @ x.transpose(2, 3), "b c y y"),
        (lambda x: torch.einsum("bcyx,dc->bdyx", x, torch.randn(3, 4)), "b c y x"),
        (lambda x: x * torch.randn(4, 1, 1) + torch.randn(8), "b c y x"),
        (lambda x: torch.randn(3, 1, 1, 1, 1) * x, "? b c y x"),
        (lambda x: torch.where(x > 0, x, 0 * x), "b c y x"),
        (lambda x: F.softmax(x, 1).log().exp().abs().clamp(0), "b c y x"),
        (lambda x: F.unfold(x, 3, padding=1, stride=2), "b c n"),
        (lambda x: F.fold(F.unfold(x, 2, stride=2), (6, 8), 2, stride=2), "b c y x"),
        (lambda x: x.unfold(3, 2, 2), "b c y x ?"),
        (lambda x: F.grid_sample(x, torch.zeros(2, 5, 5, 2), align_corners=False), "b c y x"),
        (lambda x: torch.fft.rfft2(x).abs(), "b c y x"),
        (lambda x: x.to(torch.float64).contiguous().clone(), "b c y x"),
        (lambda x: F.scaled_dot_product_attention(x, x, x), "b c y x"),
        (lambda x: F.scaled_dot_product_attention(torch.randn(2, 4, 3, 8), x, x), "b c ? x"),
        (
            lambda x: F.scaled_dot_product_attention(x, torch.randn(2, 4, 3, 8), x[:, :, :3]),
            "b c y x",
        ),
        (lambda x: F.glu(x, 1), "b c y x"),
        (lambda x: x.gather(3, torch.zeros(2, 4, 6, 2, dtype=torch.long)), "b c y n"),
        (lambda x: x.view(4, 48, 2), "b*c c*y*x x"),
        (lambda x: x.view(6, 64), "? ?"),
    ],
)
def test_ops_carry_names(axes_of, function, axes) -> None:
    assert axes_of(function, X, axes=B)["output"] == axes


def test_tokens_come_back_from_the_experts_they_were_sorted_by(axes_of) -> None:
    """Two experts a token: sorted by expert, each expert's rows in one product, put back."""
    experts = torch.tensor([[2, 0], [1, 2], [0, 1], [2, 1], [0, 2], [1, 0]]).flatten()
    order = experts.argsort(stable=True)
    ends = experts.bincount().cumsum(0).to(torch.int32)
    weights = torch.randn(3, 8, 16)

    def net(x: Tensor) -> Tensor:
        rows = x.reshape(6, 8)[order // 2]
        made = F.grouped_mm(rows, weights, offs=ends)
        return made[order.argsort()].view(6, 2, 16).sum(1).view(2, 3, 16)

    assert axes_of(net, torch.randn(2, 3, 8), axes={"input": "b n c"})["output"] == "b n c"


def test_what_is_added_to_known_axes_has_them(axes_of) -> None:
    """A residual connection tells what a branch lost."""

    def net(x: Tensor) -> Tensor:
        lost = x.reshape(6, 64).reshape(2, 3, 64)[:, :, :8]
        return lost + x[:, :3, 0]

    assert axes_of(net, X, axes={"input": "b n y c"})["output"] == "b n c"


def test_writes_into_a_tensor_leave_its_axes(axes_of) -> None:
    def net(x: Tensor) -> Tensor:
        y = x.clone()
        y[:, :, 0] = x[:, :, 1]
        return y

    assert axes_of(net, X, axes=B)["output"] == "b c y x"


@pytest.mark.parametrize(
    ("view", "axes"),
    [
        (lambda y: y[:, :2], "b c y x"),
        (lambda y: y[:, 1:, :, 3:], "b c y x"),
        (lambda y: y.transpose(1, 3), "b x y c"),
        (lambda y: y[:, :, 2], "b c x"),
        (lambda y: y.permute(0, 2, 3, 1)[:, :3], "b y x c"),
    ],
)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_views_of_what_was_written_in_place(axes_of, view, axes, memory) -> None:
    def net(x: Tensor) -> Tensor:
        part = view((x * 2).contiguous(memory_format=memory))
        part.relu_()
        return part

    assert axes_of(net, X, axes=B)["output"] == axes


def test_places_folded_into_channels_before_the_first_convolution(axes_of) -> None:
    """Space to depth: what a convolution says of pieces holds for what they were cut from."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.see = nn.Conv2d(16, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            parts = x.view(2, 4, 3, 2, 4, 2).permute(0, 3, 5, 1, 2, 4)
            return self.see(parts.reshape(2, 16, 3, 4))

    axes = axes_of(Net(), X)
    assert (axes["input"], axes["output"]) == ("b c y x", "b c y x")


def test_an_op_that_no_rule_knows_says_nothing(axes_of) -> None:
    assert axes_of(lambda x: x.diagonal(0, 2, 3), X, axes=B)["output"] == "? ? ?"


def test_pictures_taken_one_by_one_are_pictures(axes_of) -> None:
    """Detectors enlarge picture after picture, each as a batch of one."""

    def net(x: Tensor) -> Tensor:
        return torch.cat([F.interpolate(one[None], size=(9, 9), mode="bilinear") for one in x])

    assert axes_of(net, X)["input"] == "b c y x"


def test_samples_folded_into_groups_come_back(axes_of) -> None:
    """Dynamic convolution: weights of each sample's own by one grouped convolution."""
    weights = torch.randn(2 * 3, 4, 3, 3)

    def net(x: Tensor) -> Tensor:
        out = F.conv2d(x.reshape(1, 8, 6, 8), weights, padding=1, groups=2)
        return out.reshape(2, 3, 6, 8)

    assert axes_of(net, X)["output"] == "b c y x"


def test_heads_folded_into_the_batch_come_back_from_a_depthwise_convolution(axes_of) -> None:
    def net(x: Tensor) -> Tensor:
        heads = F.conv2d(x.reshape(4, 2, 6, 8), torch.randn(2, 1, 3, 3), padding=1, groups=2)
        return heads.reshape(2, 4, 6, 8)

    assert axes_of(net, X, axes=B)["output"] == "b c y x"


def test_channels_that_a_window_goes_over_are_no_places(axes_of) -> None:
    words = nn.Embedding(9, 6)
    window = nn.Conv2d(1, 4, (3, 6))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.window = words, window

        def forward(self, ids: Tensor) -> Tensor:
            return self.window(self.words(ids)[:, None]).squeeze(3)

    axes = axes_of(Net(), torch.randint(0, 9, (2, 7)))
    assert axes["input"] == "b n c"
    assert axes["output"] == "b c n"


def test_time_folded_into_the_batch_comes_back(axes_of) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.see, self.tell = nn.Conv2d(3, 4, 3), nn.LSTM(4, 5, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            b, t = x.shape[:2]
            frames = self.see(x.flatten(0, 1)).mean((2, 3)).view(b, t, -1)
            return self.tell(frames)[0][:, -1]

    axes = axes_of(Net(), torch.randn(2, 6, 3, 8, 8))
    assert axes["input"] == "b t c y x"
    assert axes["see"] == "b*t c y x"
    assert axes["output"] == "b c"


def test_rules_stand_for_nodes_that_torch_has() -> None:
    """A name that is spelt wrong would never be looked up."""
    header = Path(torch.__path__[0], "include/torch/csrc/autograd/generated/Functions.h")
    if not header.exists():
        pytest.skip("this torch comes without its headers")
    nodes = set(re.findall(r"struct TORCH_API (\w+?)Backward\w*", header.read_text()))
    ours = {"_Launch", "_Fused", "_MixedByTiles", "Copy", "torch::autograd::CopySlices"}
    assert {stem for stem in RULES if stem not in ours} - nodes == set()


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_inputs_that_go_along_share_what_a_later_op_says(first: bool, count: int) -> None:
    """The sum has one axis, but either summand lends it: both are pictures to the convolution."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
            mixed = a * b + c if first else c + b * a
            return self.conv(mixed).mean((2, 3))

    inputs = [torch.rand(count, 1, 4, 4) for _ in range(3)]
    with ll.Probe(Net().eval()) as probe:
        probe.watch("input", "input.1", "input.2")
        probe(*inputs)
        assert {v.axes for v in probe.trace.values()} == {"b c y x"}

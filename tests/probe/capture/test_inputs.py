"""Every input has a name and a site; which one is explained does not hang on order or size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.probe.capture.inputs import explained_input, is_tokens, is_whole


class Tells(nn.Module):
    """A picture, words and a mask over them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.see, self.words, self.head = nn.Conv2d(3, 4, 3), nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, image: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        text = (self.words(ids) * mask[..., None]).mean(1)
        return self.head(self.see(image).mean((2, 3)) * text)


IMAGE, IDS = torch.randn(2, 3, 8, 8), torch.randint(0, 9, (2, 5))
MASK = torch.tensor([[1.0, 1, 1, 0, 0], [1, 1, 1, 1, 1]])


def slopes(net: Tells) -> dict[str, Tensor]:
    image, mask = IMAGE.clone().requires_grad_(), MASK.clone().requires_grad_()
    words = net.words(IDS).detach().requires_grad_()
    text = (words * mask[..., None]).mean(1)
    score = net.head(net.see(image).mean((2, 3)) * text)[:, 1].sum()
    grads = torch.autograd.grad(score, [image, words, mask])
    return {"input": grads[0].sum(1), "input.ids": grads[1].sum(2), "input.mask": grads[2]}


@pytest.mark.parametrize("order", ["image ids mask", "mask ids image", "ids mask image"])
def test_every_input_has_a_map_whatever_the_order_of_keywords(order) -> None:
    net, given = Tells().eval(), {"image": IMAGE, "ids": IDS, "mask": MASK}
    x = {name: given[name] for name in order.split()}
    maps = ll.maps(net, x, "gradient_sum", target=1, sites=["input", "input.ids", "input.mask"])
    for site, want in slopes(net).items():
        torch.testing.assert_close(maps.where(site=site).stack(), want)
    assert [m.axes for m in maps[:3]] == ["y x", "n", "n"]


def test_inputs_by_position_and_the_probe() -> None:
    net = Tells().eval()
    with ll.Probe(net) as probe:
        probe.watch("input", "input.1", "input.2")(IMAGE, IDS, MASK)
        probe.backward(1)
        assert [str(site) for site in probe.trace] == ["input", "input.2", "input.1"]
        for site, want in zip(("input.1", "input.2"), list(slopes(net).values())[1:], strict=True):
            grad = probe.trace[site].grad
            torch.testing.assert_close(grad.sum(2) if grad.ndim == 3 else grad, want)


def test_another_input_is_explained_if_one_says_so() -> None:
    net = Tells().eval()
    given = ll.inputs(IMAGE, IDS, MASK, explained="2", axes={"2": "b n"})
    maps = ll.maps(net, given, "gradient_sum", target=1)
    assert {(str(m.site), m.axes) for m in maps} == {("input", "n")}
    torch.testing.assert_close(maps.stack(), slopes(net)["input.mask"])


def test_masks_stand_still() -> None:
    """Noise falls on the picture, and a map of integrated gradients sums to the gap it made."""
    net = Tells().eval()
    maps = ll.maps(net, (IMAGE, IDS, MASK), "integrated_gradients,n=4", target=1)
    with torch.no_grad():
        gap = net(IMAGE, IDS, MASK)[:, 1] - net(0 * IMAGE, IDS, MASK)[:, 1]
    torch.testing.assert_close(maps.stack().sum((1, 2)), gap, rtol=1e-4, atol=1e-5)


def test_ids_cannot_be_moved_and_say_so() -> None:
    class Reads(Tells):
        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            return self.head((self.words(ids) * mask[..., None]).mean(1))

    with pytest.raises(ll.LimelightError, match="give inputs_embeds instead of ids"):
        ll.maps(Reads().eval(), {"ids": IDS, "mask": MASK}, "smoothgrad,n=2", target=1)


class Bytes(nn.Module):
    def __init__(self, scale: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scale, self.see, self.head = scale, nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x / 255 if self.scale == "div" else x.float() / 255
        return self.head(self.see(x).relu().mean((2, 3)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("scale", ["div", "float"])
def test_whole_numbers_that_a_network_scales_are_values(scale, dtype) -> None:
    net = Bytes(scale).eval()
    x = torch.randint(0, 256, (2, 3, 8, 8)).to(dtype)
    leaf = x.float().requires_grad_()
    (slope,) = torch.autograd.grad(net(leaf)[:, 1].sum(), leaf)
    slope = slope if scale == "float" else slope * 255  # the first floats are those divided
    torch.testing.assert_close(ll.maps(net, x, "gradient_sum", target=1).stack(), slope.sum(1))
    with torch.no_grad():
        gap = net(x)[:, 1] - net(0 * x)[:, 1]
    assert ll.maps(net, x, "input_x_gradient", target=1)[0].axes == "y x"
    assert ll.maps(net, x, "smoothgrad,n=2", target=1)[0].axes == "y x"
    drops = ll.maps(net, x, "occlusion,window=8,stride=8", target=1).stack()
    torch.testing.assert_close(drops[:, 0, 0], gap)


@pytest.mark.parametrize(
    ("tensors", "names", "want"),
    [
        ({"0": torch.zeros(2, 3), "1": torch.zeros(2, 3)}, (), "0"),
        ({"0": torch.zeros(2, 3), "1": torch.zeros(2, 3)}, ("attention_mask", "x"), "1"),
        ({"mask": torch.zeros(2, 3), "x": torch.zeros(2, 3)}, (), "x"),
        ({"lengths": torch.ones(2), "x": torch.zeros(2, 3)}, (), "x"),
        ({"ids": torch.zeros(2, 3).long(), "pixels": torch.zeros(2, 3)}, (), "pixels"),
        ({"ids": torch.zeros(2, 3).long(), "attention_mask": torch.zeros(2, 3)}, (), "ids"),
        ({"keep": torch.zeros(2, 3).bool(), "x": torch.zeros(2, 3)}, (), "x"),
        ({"masked_pixels": torch.zeros(2, 3), "y": torch.zeros(2)}, (), "masked_pixels"),
        ({"mask": torch.zeros(2, 3)}, (), "mask"),
        ({}, (), ""),
    ],
)
def test_what_is_explained_is_no_mask(tensors, names, want) -> None:
    assert explained_input(tensors, names=names) == want


def test_ids_and_whole_numbers() -> None:
    kinds = {
        torch.float32: (False, False), torch.complex64: (False, False), torch.int64: (True, True),
        torch.int32: (True, True), torch.uint8: (False, True), torch.int16: (False, True),
    }  # fmt: skip
    for dtype, want in kinds.items():
        x = torch.zeros(1, dtype=dtype)
        assert (is_tokens(x), is_whole(x)) == want


@pytest.mark.parametrize(
    "method", ["integrated_gradients,n=4", "smoothgrad,n=3", "occlusion,window=4,stride=4",
               "rise,n=8", "meta,base=gradient", "gradient"],
)  # fmt: skip
def test_a_forward_that_writes_into_its_input_never_sees_the_callers(method) -> None:
    class Net(nn.Module):
        def __init__(self, inplace: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.see, self.head, self.inplace = nn.Conv2d(3, 4, 3), nn.Linear(4, 3), inplace

        def forward(self, x: Tensor) -> Tensor:
            x = x.sub_(0.5).div_(0.25) if self.inplace else (x - 0.5) / 0.25
            return self.head(self.see(x).relu().mean((2, 3)))

    x = torch.rand(2, 3, 8, 8)
    given = x.clone()
    want = ll.maps(Net(False).eval(), x, method, target=2)
    maps = ll.maps(Net(True).eval(), given, method, target=2)
    assert torch.equal(given, x)
    torch.testing.assert_close(maps.stack(), want.stack())


def test_complex_values_keep_both_parts() -> None:
    class Spectrum(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z.abs().square().sum(1, keepdim=True) * torch.tensor([1.0, 2.0])

    z = torch.randn(2, 5, dtype=torch.complex64)
    maps = ll.maps(Spectrum(), z, "input_x_gradient", target=1, axes={"input": "b c"})
    torch.testing.assert_close(maps.stack(), 4 * z.abs().square())  # d|z|^2: both parts count
    norms = ll.maps(Spectrum(), z, "gradient,reduce=norm", target=0, axes={"input": "b c"})
    torch.testing.assert_close(norms.stack(), 2 * z.abs())

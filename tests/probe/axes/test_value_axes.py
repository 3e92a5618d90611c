"""What is known of a forward's axes: by the graph, by word, by a module; and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from foreign import import_foreign, import_torchvision
from torch import Tensor, nn

import limelight as ll
from limelight.probe.errors import LimelightError, SiteError
from limelight.probe.sites import adapt


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], batch_first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.run, self.head = kind(8, 5, batch_first=batch_first), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        out = self.run(x)[0]
        return self.head(out[:, -1] if self.run.batch_first else out[-1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_time_first_is_refused_and_then_told(kind) -> None:
    net = Recurrent(kind, batch_first=False).eval()
    x = torch.randn(4, 4, 8)  # square: no size could tell
    with pytest.raises(SiteError, match=r"takes it for time steps.* axes=\{'input': 't b c'\}"):
        ll.maps(net, x, "gradient_sum", target=1)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(leaf)[:, 1].sum(), leaf)
    maps = ll.maps(net, x, "gradient_sum", target=1, axes={"input": "t b c"})
    assert {m.axes for m in maps} == {"t"}
    torch.testing.assert_close(maps.stack(), slope.sum(2).mT)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_batch_first_needs_no_word(kind) -> None:
    net, x = Recurrent(kind, batch_first=True).eval(), torch.randn(4, 4, 8)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(leaf)[:, 1].sum(), leaf)
    maps = ll.maps(net, x, "gradient_sum", target=1)
    torch.testing.assert_close(maps.stack(), slope.sum(2))


def test_a_transformer_without_batch_first_is_refused() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.head = nn.TransformerEncoderLayer(8, 2), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.mix(x)[0])

    with pytest.raises(SiteError, match="multi-head attention takes it for tokens"):
        ll.maps(Net().eval(), torch.randn(4, 4, 8), "gradient", target=1)


def test_an_input_without_a_batch_is_refused() -> None:
    with ll.Probe(nn.Conv2d(3, 4, 3)) as probe:
        probe.watch("input")(torch.randn(3, 8, 8))
        with pytest.raises(SiteError, match=r"a convolution takes it for channels: give a batch"):
            probe.layout(probe.trace["input"])


@pytest.mark.parametrize("shape", [(2, 3, 3, 4), (2, 4, 3, 3), (2, 3, 1, 9), (2, 3, 4, 3)])
def test_no_size_makes_a_convolution_channels_last(shape) -> None:
    net = nn.Sequential(
        nn.Conv2d(shape[1], 5, 1), nn.Flatten(), nn.Linear(5 * shape[2] * shape[3], 2)
    )
    (m, _) = ll.maps(net, torch.randn(shape), "gradcam", sites="0", target=0)
    assert tuple(m.values.shape) == shape[2:]


def test_a_picture_that_is_only_flattened_has_to_be_named() -> None:
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), torch.randn(2, 3, 4, 4)
    message = r"read as 'b \? \? \?'; say it, as in axes=\{'input': 'b c y x'\}"
    with pytest.raises(SiteError, match=message):
        ll.maps(net, x, "input_x_gradient", target=1)
    maps = ll.maps(net, x, "input_x_gradient", target=1, axes={"input": "b c y x"})
    want = (net[1].weight[1].reshape(3, 4, 4) * x).sum(1)
    torch.testing.assert_close(maps.stack(), want.detach())


def test_axes_are_said_by_call_site_probe_and_adapter() -> None:
    net, x = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(12, 2)), torch.randn(1, 2, 6)
    by_call = ll.maps(net, x, "gradient", target=0, axes={"input": "b c f"})
    by_site = ll.maps(net, x, "gradient", target=0, sites=ll.Site("", "in", axes="b c f"))
    with ll.Probe(net, axes={"input": "b c f"}) as probe:
        probe.watch("input", "0")(x)
        by_probe = probe.maps("gradient", target=0, sites="input")
        assert probe.trace["0"].axes == "b c f"
        assert probe.input_sizes == {"b": 1, "c": 2, "f": 6}
    assert {m.axes for m in (*by_call, *by_site, *by_probe)} == {"f"}

    spectra = replace(adapt(net), axes=(("input", "b c f"),))
    with ll.Probe(net, adapter=spectra) as probe:
        probe.watch("input")(x)
        assert probe.maps("gradient", target=0, sites="input")[0].axes == "f"


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ("b c", r"axes 'b c' were said for input '0', but its shape is \(1, 2, 6\)"),
        ("b c c", "write each dimension once, the batch among them"),
    ],
)
def test_axes_that_do_not_fit(axes, message) -> None:
    net = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(LimelightError, match=message):
        ll.maps(net, torch.randn(1, 2, 6), "gradient", target=0, axes={"input": axes})


def test_without_a_graph_modules_of_torch_tell_and_others_do_not() -> None:
    class Block(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 1

    net = nn.Sequential(nn.Conv1d(2, 3, 3), Block(), nn.Flatten(), nn.Linear(12, 2))
    trace = ll.trace(net, torch.randn(1, 2, 6), ["0", "1", "3"])
    assert [value.axes for value in trace.values()] == ["b c t", "? ? ?", "b c"]
    known = ll.trace(net, torch.randn(1, 2, 6), ["1"], axes={"1": "b c t"})
    assert known["1"].axes == "b c t"


def test_axes_are_known_after_the_probe_is_left() -> None:
    net, x = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU()), torch.randn(1, 2, 6)
    with ll.Probe(net) as probe:
        probe.watch("1")(x)
    assert probe.trace["1"].axes == "b c t"
    assert probe.input_sizes == {"b": 1, "c": 2, "t": 6}


def test_features_have_no_places_for_a_method_that_compares_them() -> None:
    net, x = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(3, 5)
    with pytest.raises(SiteError, match="'eigencam' compares"):
        ll.maps(net, x, "eigencam", sites="1", target=0)
    maps = ll.maps(net, x, "hirescam,relu=false", sites="1", target=0)
    want = net[:2](x) * net[2].weight[0]
    torch.testing.assert_close(maps.stack(), want.detach())


def test_detectors_write_pictures_into_a_batch_and_their_family_says_so() -> None:
    import_torchvision()
    detection = import_foreign("torchvision.models.detection")
    make = detection.fasterrcnn_mobilenet_v3_large_320_fpn
    net = make(weights=None, weights_backbone=None, num_classes=3).eval()
    declared = dict(adapt(net).axes)
    assert declared
    assert set(declared.values()) == {"b c y x"}

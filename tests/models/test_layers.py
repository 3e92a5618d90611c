"""The layers that architectures share, against their formulas."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limelight.models.layers import (
    GatedMlp,
    Mlp,
    SameAvgPool2d,
    SameConv2d,
    SqueezeExcite,
    activation,
    drop_rates,
    dropped,
    fit_positions,
    init_weights,
    offset_bias,
    pooling,
    resize_offsets,
)
from limelight.models.layers.activations import ACTIVATIONS
from limelight.models.layers.language_model import config_activation
from limelight.probe.errors import OptionError, WeightsError


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_the_same_as_function_and_as_module(name):
    x = torch.linspace(-3, 3, 31)
    assert torch.equal(activation(name).function(x), activation(name).module()(x))


def test_names_of_activations_mean_what_their_files_mean():
    x = torch.linspace(-3, 3, 31)
    tanh = nn.functional.gelu(x, approximate="tanh")
    for name in ("gelu_tanh", "gelu_new", config_activation("gelu")):
        assert torch.equal(activation(name).function(x), tanh)
    assert torch.equal(activation("gelu").function(x), nn.functional.gelu(x))
    torch.testing.assert_close(activation("swish").function(x), x * x.sigmoid())
    assert torch.equal(activation("sqrelu").function(x), x.clamp(min=0) ** 2)
    with pytest.raises(OptionError, match="no activation 'gelo'; did you mean 'gelu'"):
        activation("gelo")


def test_an_mlp_bears_the_names_of_its_files():
    plain = Mlp(4, 8, "relu", names=("up", "down"))
    assert [name for name, _ in plain.named_children()] == ["up", "act", "down"]
    dropping = Mlp(4, 8, drop=0.0)
    assert [n for n, _ in dropping.named_children()] == ["fc1", "act", "drop1", "fc2", "drop2"]
    x = torch.randn(3, 4)
    torch.testing.assert_close(plain(x), plain.down(plain.up(x).relu()))


def test_a_gated_mlp_in_one_matrix_equals_one_in_two():
    two = GatedMlp(4, 6, "relu")
    one = GatedMlp(4, 6, "relu", names=("fc1", "fc2"))
    state = {name: x.detach() for name, x in two.named_parameters()}
    joined = torch.cat([state["gate_proj.weight"], state["up_proj.weight"]])
    one.load_state_dict({"fc1.weight": joined, "fc2.weight": state["down_proj.weight"]})
    x = torch.randn(2, 5, 4)
    torch.testing.assert_close(one(x), two(x))
    gate, up = x @ state["gate_proj.weight"].T, x @ state["up_proj.weight"].T
    torch.testing.assert_close(two(x), (gate.relu() * up) @ state["down_proj.weight"].T)


def test_squeeze_excite_multiplies_channels_by_one_gate_each():
    layer, x = SqueezeExcite(8, 2, "silu"), torch.randn(2, 8, 3, 5)
    squeezed = nn.functional.silu(layer.fc1(x.mean((2, 3), keepdim=True)))
    torch.testing.assert_close(layer(x), x * layer.fc2(squeezed).sigmoid())


def test_dropped_branches_leave_whole_samples_out_and_keep_the_mean():
    assert list(drop_rates(0.3, (2, 2))) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert list(drop_rates(0.3, (1,))) == [0.0]
    for shape in ((4000, 2), (4000, 2, 3, 1)):
        x = torch.ones(shape)
        y = dropped(x, 0.25, training=True).flatten(1)
        assert torch.equal(y, y[:, :1].expand_as(y))
        assert y.unique().tolist() == pytest.approx([0, 1 / 0.75])
        assert float(y.mean()) == pytest.approx(1, abs=0.05)
        assert dropped(x, 0.25, training=False) is x


def test_weights_are_drawn_for_the_kinds_that_are_named():
    net = nn.Sequential(nn.Linear(40, 50), nn.Conv2d(3, 50, 3))
    before = net[1].weight.detach().clone()
    init_weights(net, nn.Linear)
    assert float(net[0].weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert not net[0].bias.any()
    assert torch.equal(net[1].weight, before)


def test_a_files_positions_are_fitted_to_a_grid():
    table = torch.randn(1, 1 + 9, 4)
    state = {"pos": table}
    fit_positions(state, "pos", (3, 3), prefix=1)
    fit_positions(state, "other", (3, 3), prefix=1)
    assert state == {"pos": table}
    fit_positions(state, "pos", (2, 5), prefix=1)
    assert state["pos"].shape == (1, 11, 4)
    assert torch.equal(state["pos"][:, :1], table[:, :1])
    with pytest.raises(WeightsError, match="10 patch positions"):
        fit_positions({"pos": table}, "pos", (2, 2))


def test_poolings_have_several_names():
    assert (pooling("class token"), pooling("mean")) == ("token", "avg")
    with pytest.raises(OptionError, match="no pooling 'tokens' of tokens; did you mean 'token'"):
        pooling("tokens")


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 2), (4, 2), (5, 2), (3, 3), (2, 3)])
def test_same_pooling_does_not_count_what_lies_outside(kernel, stride):
    x = torch.randn(2, 3, 9, 14, dtype=torch.float64)
    found = SameAvgPool2d(kernel, stride)(x)
    ranges = []
    for side in (9, 14):
        count = -(-side // stride)
        before = max((count - 1) * stride + kernel - side, 0) // 2
        starts = [n * stride - before for n in range(count)]
        ranges.append([(max(at, 0), min(at + kernel, side)) for at in starts])
    want = [[x[:, :, a:b, c:d].mean((2, 3)) for c, d in ranges[1]] for a, b in ranges[0]]
    torch.testing.assert_close(found, torch.stack([torch.stack(row, -1) for row in want], 2))


@pytest.mark.parametrize("side", [8, 9])
def test_same_convolutions_pad_at_the_end_first(side):
    conv = SameConv2d(1, 1, 3, 2)
    x = torch.randn(1, 1, side, side)
    edges = (0, 1, 0, 1) if side == 8 else (1, 1, 1, 1)
    want = nn.functional.conv2d(nn.functional.pad(x, edges), conv.weight, conv.bias, 2)
    torch.testing.assert_close(conv(x), want)
    assert want.shape[-1] == -(-side // 2)


def test_a_bias_is_read_at_key_minus_query():
    table = torch.randn(2, 3, 7)  # a window of 2 x 4
    bias = offset_bias(table)
    for query in range(8):
        for key in range(8):
            y, x = key // 4 - query // 4 + 1, key % 4 - query % 4 + 3
            assert torch.equal(bias[:, query, key], table[:, y, x])


def test_a_table_of_offsets_is_resized_between_pixel_centres():
    table = torch.arange(9.0).reshape(1, 3, 3)
    assert resize_offsets(table, (2, 2)) is table
    tall = resize_offsets(table.bfloat16(), (4, 2))
    assert tall.dtype == torch.bfloat16
    places = ((torch.arange(7) + 0.5) * 3 / 7 - 0.5).clamp(0, 2)
    torch.testing.assert_close(tall.float()[0, :, 1], 3 * places + 1, rtol=1e-2, atol=1e-2)


def test_squeeze_excite_bears_the_names_of_its_files():
    gate = SqueezeExcite(4, 2, "silu", names=("down", "up"))
    assert [name for name, _ in gate.named_children()] == ["down", "act", "up"]
    x = torch.randn(2, 4, 3, 3)
    inner = nn.functional.silu(gate.down(x.mean((2, 3), keepdim=True)))
    torch.testing.assert_close(gate(x), x * gate.up(inner).sigmoid())

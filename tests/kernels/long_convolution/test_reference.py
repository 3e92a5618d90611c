"""Long convolutions: two forms agree, gradients, precision, relevance, errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from op_cases import draw, filtered
from torch import nn

import limelight as ll
from limelight.kernels.errors import KernelError
from limelight.kernels.long_convolution import reference
from limelight.kernels.long_convolution.reference import fast_length, long_convolution


@pytest.mark.parametrize("named", [filtered(50, 30), filtered(33, 20, own=True, e=3)])
def test_direct_form_and_transform_agree(named, monkeypatch):
    direct = long_convolution(**named)
    monkeypatch.setattr(reference, "SHORT", 0)
    torch.testing.assert_close(long_convolution(**named), direct, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("circular", [False, True])
def test_the_map_of_an_impulse_is_the_filter_with_the_skip_at_its_own_place(circular):
    named = filtered(6, 3, h=1, b=1, without=("gate_in", "gate_out"), circular=circular)
    found = reference.convolution_map(slice(None), **named)[0, 0]
    taps, skip = named["filter"][0], named["skip"][0]
    for i in range(6):
        for j in range(6):
            lag = (i - j) % 6 if circular else i - j
            want = (float(taps[lag]) if 0 <= lag < 3 else 0.0) + (float(skip) if i == j else 0.0)
            assert float(found[i, j]) == pytest.approx(want, abs=1e-6)


def test_a_causal_spectrum_is_that_of_the_padded_taps():
    named = filtered(20, 20, without=("skip",))
    waves = torch.fft.rfft(named["filter"], n=40)
    want = long_convolution(**named)
    torch.testing.assert_close(long_convolution(**named | {"filter": waves}), want)


def test_gradients_of_all_arguments_and_of_gradients():
    named = {n: x.double().requires_grad_() for n, x in filtered(7, 3, b=1, e=2).items()}

    def run(*given):
        return long_convolution(**dict(zip(named, given, strict=True)))

    assert torch.autograd.gradcheck(run, tuple(named.values()))
    assert torch.autograd.gradgradcheck(run, tuple(named.values()))
    waves = torch.fft.rfft(draw(2, 10).double(), n=12)
    v = draw(1, 2, 6, 1, seed=1).double()

    def transformed(v, waves):
        return long_convolution(v, waves)

    given = v.requires_grad_(), waves.requires_grad_()
    assert torch.autograd.gradcheck(transformed, given)


@pytest.mark.parametrize("taps", [3, 60])
def test_halves_are_summed_in_float32(taps):
    named = {n: x.bfloat16() for n, x in filtered(60, taps).items()}
    out = long_convolution(**named)
    want = long_convolution(**{n: x.float() for n, x in named.items()})
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, want.bfloat16())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own
def test_it_runs_under_vmap_and_forward_mode():
    named = filtered(9, 40, h=3, b=4)
    each = torch.func.vmap(lambda v: long_convolution(v[None], named["filter"])[0])(named["v"])
    torch.testing.assert_close(each, long_convolution(named["v"], named["filter"]))
    _, slope = torch.func.jvp(
        lambda v: long_convolution(v, named["filter"]), (named["v"],), (named["v"],)
    )
    torch.testing.assert_close(slope, each)


@pytest.mark.parametrize("size", [1, 2, 17, 63, 100, 127, 1000, 4097])
def test_fast_lengths_are_a_little_longer(size):
    found = fast_length(size)
    assert size <= found <= size + max(1, size // 16) + 1
    while found % 2 == 0:
        found //= 2
    assert found <= 32


class Net(nn.Module):
    """A convolution whose factors come from the input, as asked; a linear layer behind it."""

    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        names = "v", "gate_in", "gate_out", "filter"
        self.parts = nn.ModuleDict({name: nn.Linear(4, 4, bias=False) for name in names})
        self.taps, self.skip = nn.Parameter(torch.randn(4, 9)), nn.Parameter(torch.randn(4))
        self.out, self.form = nn.Linear(36, 5, bias=False), form

    def forward(self, x):
        made = {name: part(x).mT for name, part in self.parts.items()}
        v, filter = made.pop("v")[..., None], made.pop("filter")
        if self.form == "spectrum":
            made["filter"] = torch.fft.rfft(filter, n=18)
        else:
            made["filter"] = filter if self.form == "own" else self.taps
        if self.form in ("static", "one gate"):
            made["skip"] = self.skip
        if self.form == "one gate":
            made.pop("gate_in")
        return self.out(long_convolution(v, **made).flatten(1))


@pytest.mark.parametrize(
    ("form", "shares"), [("one gate", 2), ("static", 3), ("own", 4), ("spectrum", 4)]
)
def test_what_depends_on_the_input_takes_an_equal_part(form, shares):
    model = Net(form).double()
    x = torch.randn(1, 9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    books = ll.ledger(model, x, "lrp:epsilon", target=ll.label(2))
    assert books.leaks(1e-6) == ()
    row = next(row for row in books if row.op.startswith("long_convolution"))
    parts = [row for row in books if row.op.startswith("linear") and "parts" in row.place]
    assert len(parts) == shares
    for part in parts:
        assert part.received == pytest.approx(row.received / shares)


def test_an_edited_map_makes_the_heads():
    class Model(nn.Module):
        def forward(self, v):
            return long_convolution(v, taps)

    taps, v = draw(2, 3, seed=1), draw(1, 2, 6, 1)
    shifted = ll.patch(Model(), v, {":map": lambda m, _: m.roll(1, -1)})
    want = F.conv1d(F.pad(v[..., 0].roll(-1, -1), (2, 0)), taps.flip(-1)[:, None], groups=2)
    torch.testing.assert_close(shifted[..., 0], want)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"v": draw(2, 2, 63)}, "takes v as `b h n e`"),
        ({"filter": draw(3, 3)}, r"give \(2, l\) or \(2, 2, l\)"),
        ({"filter": draw(2, 0)}, "without taps"),
        ({"gate_in": draw(2, 2, 62)}, r"gate_in of .* give \(2, 2, 63\)"),
        ({"gate_out": draw(2, 63, 2)}, "gate_out of"),
        ({"skip": draw(3)}, r"a skip of \(3,\)"),
        ({"filter": draw(2, 2, 3)}, "add it to the first tap"),
        ({"filter": draw(2, 64), "circular": True}, "give 1 to 63"),
        ({"filter": draw(2, 64).cfloat(), "circular": True}, "give 32, rfft of 63 points"),
        ({"filter": draw(2, 32).cfloat()}, "give 64, rfft of 126 points"),
    ],
)
def test_shapes_that_do_not_fit_are_told(change, match):
    with pytest.raises(KernelError, match=match):
        long_convolution(**{**filtered(), **change})

"""What is special to Taylor attention on Triton: tokens that are never read, refusals."""

from __future__ import annotations

import pytest
import torch
from op_cases import on_triton, scores

from limelight.kernels.errors import KernelError
from limelight.kernels.taylor import taylor_attention

pytestmark = pytest.mark.usefixtures("on_triton")


def test_the_next_segment_is_never_read():
    """A call on the first tokens of a longer tensor sees none of the rest, NaN here."""
    given = scores(70, d=4, e=4)
    longer = {n: torch.cat([x, torch.full_like(x, torch.nan)], 2) for n, x in given.items()}
    on_triton(taylor_attention, {n: x[:, :, :70] for n, x in longer.items()}, 3e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 4e-3), (torch.bfloat16, 2e-2)])
def test_sums_of_segments_from_halves(dtype, tolerance):
    given = {n: x.to(dtype) for n, x in scores(70, d=5, e=4).items()}
    on_triton(taylor_attention, given, tolerance)


def test_float16_holds_no_weight_itself():
    """Scores of 600 weigh 180,000, more than float16 knows."""
    given = {n: x.half() for n, x in scores(20, d=4, e=4).items()}
    given |= {"q": given["q"] * 100, "k": given["k"].sign()}
    out = taylor_attention(**given)
    want = taylor_attention.reference(**{n: x.double() for n, x in given.items()})
    assert (out.double() - want).abs().max() < 4e-3


def test_what_the_kernels_refuse_is_told(monkeypatch):
    given = scores(10)
    assert taylor_attention.why(**given).path == "triton"
    with pytest.raises(KernelError, match="q, k and v are of several dtypes"):
        taylor_attention(**{**given, "v": given["v"].half()})
    with pytest.raises(KernelError, match="shapes do not fit"):
        taylor_attention(**{**given, "k": given["k"][:, :, 1:]})
    with pytest.raises(KernelError, match="not four axes"):
        taylor_attention(**{**given, "v": given["v"][0]})
    with pytest.raises(KernelError, match="more than 128 channels"):
        taylor_attention(**scores(3, d=130, e=2))
    monkeypatch.setenv("LIMELIGHT_KERNELS", "auto")
    assert taylor_attention.why(**given).path == "reference"

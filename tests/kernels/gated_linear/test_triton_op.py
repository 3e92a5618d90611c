"""What is special to gated linear attention on Triton: uneven decays, wide gates, refusals."""

from __future__ import annotations

import pytest
import torch
from op_cases import on_triton, scan

from limelight.kernels.errors import KernelError
from limelight.kernels.gated_linear.reference import bidirectional_gla, gated_linear_attention

pytestmark = pytest.mark.usefixtures("on_triton")


def test_one_strong_decay_spoils_no_small_ones():
    given = scan(40, strength=0.01, d=16, e=16)
    given["gate"][:, :, ::20] = -1000.0
    on_triton(gated_linear_attention, given, 1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 1.5e-2)])
def test_a_gate_of_halves_may_be_wide(dtype, tolerance):
    given = {n: x.to(dtype) for n, x in scan(20, d=16, e=16, both=True).items()}
    on_triton(bidirectional_gla, {**given, "gate": given["gate"].float()}, tolerance)


def test_the_next_chunk_is_never_read():
    """A call on the first tokens of a longer tensor sees none of the rest, NaN here."""
    given = scan(50, d=8, e=8, both=True)
    longer = {n: torch.cat([x, torch.full_like(x, torch.nan)], 2) for n, x in given.items()}
    on_triton(bidirectional_gla, {n: x[:, :, :50] for n, x in longer.items()}, 3e-6)


def test_what_the_kernels_refuse_is_told(monkeypatch):
    given = scan(10)
    assert gated_linear_attention.why(**given).path == "triton"
    with pytest.raises(KernelError, match="q, k and v are of several dtypes"):
        gated_linear_attention(**{**given, "v": given["v"].half()})
    with pytest.raises(KernelError, match="shapes do not fit"):
        gated_linear_attention(**{**given, "k": given["k"][:, :, 1:]})
    with pytest.raises(KernelError, match="not four axes"):
        gated_linear_attention(**{**given, "gate": given["gate"][0]})
    monkeypatch.setenv("LIMELIGHT_KERNELS", "auto")
    assert gated_linear_attention.why(**given).path == "reference"

"""What is special to WKV on Triton: float32 terms beside halves, tokens never read, refusals."""

from __future__ import annotations

import pytest
import torch
from op_cases import decaying, on_triton

from limelight.kernels.errors import KernelError
from limelight.kernels.wkv import wkv

pytestmark = pytest.mark.usefixtures("on_triton")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 4e-3), (torch.bfloat16, 2e-2)])
def test_decays_of_halves_may_be_wide(dtype, tolerance):
    given = decaying(20, c=3)
    halves = {n: x.to(dtype) if n in "kv" else x for n, x in given.items()}
    on_triton(wkv, halves, tolerance)


def test_the_next_chunk_is_never_read():
    """A call on the first tokens of a longer tensor sees none of the rest, NaN here."""
    given = decaying(19, c=3)
    longer = {n: torch.cat([given[n], torch.full_like(given[n], torch.nan)], 2) for n in "kv"}
    on_triton(wkv, {**given, **{n: x[:, :, :19] for n, x in longer.items()}}, 1e-5)


def test_what_the_kernels_refuse_is_told(monkeypatch):
    given = decaying(10)
    assert wkv.why(**given).path == "triton"
    with pytest.raises(KernelError, match="k and v are of several dtypes"):
        wkv(**{**given, "v": given["v"].half()})
    with pytest.raises(KernelError, match="shapes do not fit"):
        wkv(**{**given, "k": given["k"][:, :, 1:]})
    with pytest.raises(KernelError, match="shapes do not fit"):
        wkv(**{**given, "decay": given["decay"][1:]})
    monkeypatch.setenv("LIMELIGHT_KERNELS", "auto")
    assert wkv.why(**given).path == "reference"

"""What is special to gated convolutions on Triton: which calls they take, layouts, long lines."""

from __future__ import annotations

import pytest
import torch
from op_cases import draw, filtered, on_triton

from limelight.kernels.errors import KernelError
from limelight.kernels.long_convolution.reference import long_convolution

pytestmark = pytest.mark.usefixtures("on_triton")


def test_tokens_and_channels_last_are_read_where_they_lie():
    named = filtered(30, 4, h=6)
    lined = {n: x.contiguous() for n, x in named.items()}
    assert named["v"].stride(1) == 1
    assert lined["v"].stride(2) == 1
    on_triton(long_convolution, named, 2e-5)
    on_triton(long_convolution, lined, 2e-5)


def test_a_channel_of_several_blocks_and_a_head_of_several():
    on_triton(long_convolution, filtered(1100, 3, h=1, b=1), 2e-5)
    on_triton(long_convolution, filtered(5, 3, h=130, b=1), 2e-5)


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        (filtered(80, 65), "65 taps, where the kernels take 1 to 64"),
        (filtered(15, 15, waves=30), "a spectrum"),
        (filtered(9, 4, without=("gate_in",)) | {"gate_in": draw(2, 2, 8)}, "do not fit"),
        (filtered(5, 8, own=True, circular=True), "longer than the sequence"),
        (filtered(2, 2, h=1, b=1, e=65536), "more than 65535"),
    ],
)
def test_reasons_against_the_kernels(named, reason, monkeypatch):
    with pytest.raises(KernelError, match=reason):
        long_convolution(**named)
    monkeypatch.setenv("LIMELIGHT_KERNELS", "auto")
    assert reason in str(long_convolution.why(**named)) or "lie on cpu" in str(
        long_convolution.why(**named)
    )


def test_gates_of_another_type_than_the_values_are_taken():
    named = filtered(12, 3)
    mixed = {n: x.bfloat16() if n == "v" else x for n, x in named.items()}
    out = long_convolution(**mixed)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, long_convolution.reference(**mixed))

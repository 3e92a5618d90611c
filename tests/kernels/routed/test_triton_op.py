"""What is special to routed attention on Triton: the index, large scores, refusals."""

from __future__ import annotations

import pytest
import torch
from op_cases import REGIONS, on_triton, routed

from limelight.kernels.errors import KernelError
from limelight.kernels.routed.reference import routed_attention

pytestmark = pytest.mark.usefixtures("on_triton")


def test_an_index_in_32_bits_and_names_past_the_end():
    given = routed(24, 4, h=1, window=REGIONS)
    want = routed_attention(**given)
    past = given["index"].masked_fill(given["index"] < 0, 99).int()
    torch.testing.assert_close(routed_attention(**{**given, "index": past}), want)


def test_large_scores_do_not_overflow():
    on_triton(routed_attention, routed(24, 4, h=1, window=REGIONS) | {"scale": 30.0}, 1e-3)


def test_weights_of_halves_may_be_wide():
    given = routed(24, 4, h=1, weighted=True, window=REGIONS)
    on_triton(routed_attention, given | {n: given[n].half() for n in "qkv"}, 3e-3)


def test_what_the_kernels_refuse_is_told():
    given = routed(24, 4, h=1, window=REGIONS)
    with pytest.raises(KernelError, match="several dtypes"):
        routed_attention(**{**given, "q": given["q"].half()})
    with pytest.raises(KernelError, match="wider than 256"):
        routed_attention(**{**given, "v": torch.zeros(1, 1, 24, 257)})
    with pytest.raises(KernelError, match="takes q b h n d, k b g m d"):
        routed_attention(**{**given, "k": given["k"][..., :3]})
    with pytest.raises(KernelError, match="4 query blocks"):
        routed_attention(**{**given, "index": given["index"][:, :3]})

"""Learned maps against the recorded cases `karat.reference` and `karat.reference_gelu`.

They are the laboratory's reference of the paper's equations: there is no published code.
"""

from __future__ import annotations

import pytest
import torch
from fill import image, value
from shared import golden

from limelight.kernels.kan import KanForm, kan_attention
from limelight.kernels.kan.arguments import KanArguments
from limelight.kernels.kan.rows import scores_of

TOLERANCE = 1e-4  # as the cases state it


def recorded(name):
    """A case, its tensors, and q, k, v."""
    case = golden(name)
    about = case.case
    tensors = {
        key: torch.from_numpy(value(key, tuple(shape), about["salt"]))
        for key, shape in about["parameters"]
    }
    shape, seed = tuple(about["input"]["shape"]), about["input"]["seed"]
    q, k, v = (torch.from_numpy(image(shape, seed + n)) for n in range(3))
    return case, tensors, {"q": q, "k": k, "v": v}


@pytest.mark.golden
@pytest.mark.parametrize("name", ["karat.reference", "karat.reference_gelu"])
def test_every_recorded_array(name):
    case, held, qkv = recorded(name)
    base = case.case["config"]["base"]
    low_rank = {n: held[n] for n in ("a", "b", "W")}
    q, k = qkv["q"], qkv["k"]
    rows = kan_attention.face.mixing
    found = {
        "A": scores_of(KanArguments(**qkv, **low_rank)),
        "phi": KanForm(base=base).reduced(q, k, **low_rank),
        "sigma": rows(slice(None), **qkv, **low_rank, base=base),
        "out": kan_attention(**qkv, **low_rank, base=base),
        "sigma_l1": rows(slice(None), **qkv, **low_rank, base=base, simplex=True),
        "out_l1": kan_attention(**qkv, **low_rank, base=base, simplex=True),
        # equation 1 has no base function
        "sigma_fullrank": rows(slice(None), **qkv, a=held["a_full"], b=held["b_full"], order="phi"),
    }
    assert set(found) == set(case.arrays)
    for key, x in found.items():
        assert case.difference(key, x) <= TOLERANCE, key

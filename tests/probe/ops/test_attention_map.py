"""The map of a fused attention call: the call itself on columns of identity, whole or in rows."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from limelight.probe.ops.attention_map import rows_of_map

N, M, D = 5, 7, 4


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def mask(*shape: int) -> Tensor:
    seen = draw(*shape, seed=2) > -0.5
    seen[..., 0] = True
    return seen


CALLS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "plain": ((2, 4, N, D), (2, 4, M, D), {}),
    "scale": ((2, 4, N, D), (2, 4, M, D), {"scale": 0.3}),
    "scale of 0": ((2, 4, N, D), (2, 4, M, D), {"scale": 0.0}),
    "causal": ((2, 4, N, D), (2, 4, M, D), {"is_causal": True}),
    "causal and wider": ((2, 4, M, D), (2, 4, N, D), {"is_causal": True}),
    "boolean mask": ((2, 4, N, D), (2, 4, M, D), {"attn_mask": mask(N, M)}),
    "one mask for all queries": ((2, 4, N, D), (2, 4, M, D), {"attn_mask": mask(2, 1, 1, M)}),
    "float mask": ((2, 4, N, D), (2, 4, M, D), {"attn_mask": draw(2, 1, N, M, seed=3)}),
    "shared keys": ((2, 4, N, D), (2, 2, M, D), {"enable_gqa": True}),
    "no batch": ((4, N, D), (4, M, D), {}),
    "no heads": ((N, D), (M, D), {"attn_mask": mask(N, M)}),
    "two batches": ((3, 2, 4, N, D), (3, 2, 4, M, D), {"is_causal": True}),
    "two batches, shared keys": ((3, 2, 4, N, D), (3, 2, 2, M, D), {"enable_gqa": True}),
}


@pytest.mark.parametrize("name", CALLS)
def test_it_is_the_call_on_columns_of_identity(name: str) -> None:
    queries, keys, options = CALLS[name]
    q, k = draw(*queries), draw(*keys, seed=1)
    v = torch.eye(k.shape[-2], dtype=k.dtype).expand(*k.shape[:-1], -1)
    expected = F.scaled_dot_product_attention(q, k, v, **options)
    torch.testing.assert_close(rows_of_map(q, k, options), expected)
    for rows in (slice(0, 2), slice(1, 4), slice(2, None)):
        torch.testing.assert_close(rows_of_map(q, k, options, rows), expected[..., rows, :])


def test_a_query_that_sees_nothing_has_a_row_of_zeros() -> None:
    q, k, closed = draw(1, 1, N, D), draw(1, 1, M, D), torch.ones(N, M, dtype=torch.bool)
    closed[2] = False
    for attn_mask in (closed, torch.zeros(N, M).masked_fill(~closed, -math.inf)):
        rows = rows_of_map(q, k, {"attn_mask": attn_mask})[0, 0]
        assert rows[2].tolist() == [0.0] * M
        torch.testing.assert_close(rows.sum(-1)[[0, 1, 3, 4]], torch.ones(4, dtype=q.dtype))


def test_half_precision_is_widened() -> None:
    q, k = draw(1, 2, N, D).bfloat16(), draw(1, 2, M, D).bfloat16()
    assert rows_of_map(q, k, {}).dtype == torch.float32

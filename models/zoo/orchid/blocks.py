"""The trunk of models on Orchid: pre-norm blocks of the operator and an MLP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...layers import Block, Mlp, drop_rates
from .operator import OrchidOperator


def orchid_blocks(
    d_model: int,
    depth: int,
    options: Mapping[str, Any],
    *,
    mlp_ratio: float,
    norm_eps: float,
    drop_path: float,
) -> list[Block]:
    """The blocks of a model; options are those of `OrchidOperator`."""
    return [
        Block(
            d_model,
            OrchidOperator(d_model, **options),
            Mlp(d_model, int(d_model * mlp_ratio)),
            norm_eps,
            rate,
        )
        for rate in drop_rates(drop_path, [depth])
    ]

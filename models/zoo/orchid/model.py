"""Orchid (arXiv 2402.18508): the operator as published; models on it lie beside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...card import Card
from ...registry import Variant, register
from . import image, language
from .operator import FIXED, PAPER, OrchidOperator

__all__ = ["OrchidOperator", "image", "language", "orchid"]


def orchid(
    *,
    d_model: int = 128,
    l_max: int = 128,
    filter_order: int = 64,
    residual_long_conv: str | None = "sconv",
    short_filter_order: int = 3,
    emb_dim: int = 3,
    num_inner_mlps: int = 2,
    w: float = 1,
    causal: bool = True,
    dxt: str = "fft",
    conv_kernel: Mapping[str, Any] | None = None,
    lr: float | None = None,
    lr_pos_emb: float | None = 1e-5,
) -> OrchidOperator:
    """The operator alone, `b n c` to the like: see `OrchidOperator`."""
    return OrchidOperator(
        d_model,
        l_max=l_max,
        filter_order=filter_order,
        residual_long_conv=residual_long_conv,
        short_filter_order=short_filter_order,
        emb_dim=emb_dim,
        num_inner_mlps=num_inner_mlps,
        w=w,
        causal=causal,
        dxt=dxt,
        conv_kernel=conv_kernel,
        lr=lr,
        lr_pos_emb=lr_pos_emb,
    )


register(
    orchid,
    Card(
        "Orchid",
        PAPER,
        hidden=("out_linear",),
        prefix=0,
        labels="",
        about="the operator alone, float tokens in; circular, also with causal=True; no weights",
    ),
    [Variant("orchid")],
    fixed=FIXED,
)

"""Aggregated attention: one softmax over a query's neighbours and pooled keys."""

from .arguments import AggregatedArguments
from .reference import (
    aggregated_attention,
    aggregated_map,
    aggregated_shares,
    aggregated_statistics,
)

__all__ = [
    "AggregatedArguments",
    "aggregated_attention",
    "aggregated_map",
    "aggregated_shares",
    "aggregated_statistics",
]

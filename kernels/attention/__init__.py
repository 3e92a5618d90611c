"""Softmax, sigmoid and gated positional attention in all its masks, with its map and statistics."""

from .map_rows import grouped
from .reference import attention, attention_map, attention_statistics

__all__ = ["attention", "attention_map", "attention_statistics", "grouped"]

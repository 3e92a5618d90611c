"""Softmax, sigmoid and gated positional attention in all its masks, with its map and statistics."""

from .reference import attention, attention_map, attention_statistics, grouped

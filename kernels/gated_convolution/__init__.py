"""Gated depthwise convolution, and the global filter of HorNet."""

from .reference import gated_convolution, global_filter

__all__ = ["gated_convolution", "global_filter"]

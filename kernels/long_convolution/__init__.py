"""Convolutions over time as long as the sequence, between two gates."""

from .reference import kernel_taps, long_convolution

__all__ = ["kernel_taps", "long_convolution"]

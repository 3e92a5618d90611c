"""Convolutions over time as long as the sequence, between two gates."""

from .reference import long_convolution

__all__ = ["long_convolution"]

"""Gated linear attention, one way and both ways."""

from .reference import bidirectional_gla, gated_linear_attention, gla_state

__all__ = ["bidirectional_gla", "gated_linear_attention", "gla_state"]

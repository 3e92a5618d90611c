"""Bi-level routed attention: each region attends to the regions most like it."""

from .reference import routed_attention

__all__ = ["routed_attention"]

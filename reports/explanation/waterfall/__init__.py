"""Where relevance goes: a ledger's steps, and the bars that draw them."""

from .waterfall import waterfalls

__all__ = ["waterfalls"]

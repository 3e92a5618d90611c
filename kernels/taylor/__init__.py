"""Taylor attention: softmax's exponential to second order, in linear time."""

from .reference import taylor_attention, taylor_denominator, taylor_state

__all__ = ["taylor_attention", "taylor_denominator", "taylor_state"]

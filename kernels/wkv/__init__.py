"""The time mixing of RWKV-4: a decaying mean of values, channel by channel."""

from .reference import wkv, wkv_state

__all__ = ["wkv", "wkv_state"]

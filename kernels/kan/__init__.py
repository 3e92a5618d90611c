"""Kolmogorov-Arnold attention: a map that is a learned function of the scores of a whole row."""

from .arguments import ORDERS, Functions, Order
from .bases import BASE_FUNCTIONS, BASES, curves
from .form import KanForm
from .reference import LEARNED, kan_attention

__all__ = [
    "BASES",
    "BASE_FUNCTIONS",
    "LEARNED",
    "ORDERS",
    "Functions",
    "KanForm",
    "Order",
    "curves",
    "kan_attention",
]

"""Layers that mix tokens by attention: softmax, rotary and causal, learned functions of scores."""

from .kolmogorov_arnold import KanAttention, KanOperator, KanOptions, fixed_grid
from .rotary import RotaryAttention
from .softmax import Attention
from .width import attention_width

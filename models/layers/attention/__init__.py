"""Layers that mix tokens by attention: softmax, sigmoid, rotary and causal, learned functions."""

from .kolmogorov_arnold import KanAttention, KanOperator, KanOptions
from .rotary import RotaryAttention
from .sigmoid import SigmoidAttention
from .softmax import Attention
from .width import attention_width

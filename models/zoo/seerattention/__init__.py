"""SeerAttention: Llamas whose gates choose the blocks of keys that queries see."""

from .distillation import Distilled, LayerGate, compare_gates, distil

__all__ = ["Distilled", "LayerGate", "compare_gates", "distil"]

"""Rankings of heads held against a truth: precision and recall, faithfulness."""

from .faithfulness import CircuitCheck, curve, verify
from .ranking import curves, evaluate
from .truth import Published, Truth, measured, truth

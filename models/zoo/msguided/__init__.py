"""Multi-scale self-guided attention for segmenting organs."""

from .losses import guided_losses
from .model import GuidedAttention

__all__ = ["GuidedAttention", "guided_losses"]

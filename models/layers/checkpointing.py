"""Gradient checkpointing as a switch: blocks are computed again in the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Checkpointing:
    """A model whose blocks may be recomputed; a probe switches it off while it is open."""

    grad_checkpointing = False

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward instead of keeping their activations."""
        self.grad_checkpointing = enable

    def through(self, block: nn.Module, *args: Any) -> Any:
        """Run one block, checkpointed where that is switched on and a graph is built."""
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)

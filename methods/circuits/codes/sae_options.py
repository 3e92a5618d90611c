"""How the autoencoder of head outputs is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from ....probe.errors import OptionError

Unit = Literal["rows", "columns"]


Dead = Literal["zero", "own"]


@dataclass(frozen=True)
class Options:
    """How an autoencoder was trained; the defaults are the published ones.

    examples   how many examples, drawn without a look at the labels, it is trained on
    unit       decoder of unit norm along its last dimension, `rows` over codes as published (a
               slip: nothing is said about a code's direction), or `columns`, one per code
    tied       the decoder's bias is subtracted before encoding
    project    the gradient loses its part along each unit vector
    renormalise  the weights return to unit norm before each step and at the end
    equalise   heads are rescaled to one mean norm first; not published, it removes most of the
               signal on toys
    alpha      weight of cos(pos, neg) + 1 - cos(pos, pos), means over pairs of training examples
               of the cosine of a head's z; an older script's, needs labels
    dtype      of the matrix products while many codes are active; `torch.bfloat16` is faster
               where the processor has it, float32 sums and weights stay
    """

    codes: int = 200
    l1: float = 0.02
    steps: int = 500
    lr: float = 1e-3
    examples: int = 10
    unit: Unit = "rows"
    tied: bool = True
    project: bool = True
    renormalise: bool = True
    equalise: bool = False
    alpha: float = 0.0
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if self.unit not in ("rows", "columns"):
            raise OptionError(f"unit={self.unit!r}: write 'rows' (as published) or 'columns'")
        if min(self.codes, self.examples) < 1 or min(self.steps, self.l1, self.lr, self.alpha) < 0:
            raise OptionError(
                f"codes={self.codes}, examples={self.examples}, steps={self.steps}, l1={self.l1}, "
                f"lr={self.lr}, alpha={self.alpha}: codes and examples start at 1, the rest at 0"
            )
        if self.dtype not in (torch.float32, torch.bfloat16):
            raise OptionError(f"dtype={self.dtype}: write torch.float32 or torch.bfloat16")


DEFAULT = Options()

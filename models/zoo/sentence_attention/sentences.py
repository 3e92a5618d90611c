"""Sentences as vectors without a language model: words and pairs of words by their hashes."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ....probe.errors import OptionError

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class HashedSentences:
    """Sentences `b` to vectors `b size` of length 1: the same words, the same vector.

    Each word, and each pair of neighbours, adds a vector of signs that its hash and the seed
    draw. It knows nothing of meaning: "crimson" is as far from "red" as "blue" is.

    Source: feature hashing, Weinberger et al. 2009, arXiv 0902.2206.

        >>> HashedSentences(384)(["where is the red disc"]).shape
        torch.Size([1, 384])
    """

    size: int = 384
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise OptionError(f"a sentence of {self.size} numbers was asked for: give at least 1")

    def __call__(self, sentences: Sequence[str]) -> Tensor:
        if isinstance(sentences, str):
            raise OptionError(f"sentences are a list, not {sentences!r}: write [{sentences!r}]")
        return torch.stack([self._vector(text) for text in sentences])

    def _vector(self, text: str) -> Tensor:
        words = _WORD.findall(text.lower())
        if not words:
            raise OptionError(f"the sentence {text!r} holds no word: write a question")
        parts = [*words, *(f"{a} {b}" for a, b in itertools.pairwise(words))]
        total = torch.stack([self._signs(part) for part in parts]).sum(0)
        return total / total.norm().clamp(min=1e-12)

    def _signs(self, part: str) -> Tensor:
        digest = hashlib.sha256(f"{self.seed} {part}".encode()).digest()
        draw = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return torch.randint(0, 2, (self.size,), generator=draw).float() * 2 - 1

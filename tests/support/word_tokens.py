"""A tokenizer for tests whose tokens are what a pattern finds."""

from __future__ import annotations

import re

from limelight.methods.circuits.tasks.pairs import Pair

DIGITS = r" ?[A-Za-z]+|\d| +|\n|[^\w\s]"
TWO_DIGITS = r" ?[A-Za-z]+| ?\d\d|\d| +|\n|[^\w\s]"
LETTERS = r"[^\n]|\n"


class Words:
    """A tokenizer whose tokens are what a pattern finds; ids are given as words come."""

    def __init__(self, pattern: str = DIGITS) -> None:
        self.pattern = re.compile(pattern)
        self.known: dict[str, int] = {}

    @property
    def size(self) -> int:
        return len(self.known)

    def encode(self, text: str) -> list[int]:
        found = self.pattern.findall(text)
        assert "".join(found) == text
        return [self.known.setdefault(word, len(self.known)) for word in found]

    def words(self, ids: list[int]) -> list[str]:
        known = list(self.known)
        return [known[i] for i in ids]


def changes(pair: Pair) -> list[tuple[str, str]]:
    return [(a, b) for a, b in zip(pair.words, pair.other, strict=True) if a != b]

"""Tokenizers from the files beside a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...probe.sites import BpeTokenizer, Tokenizer, checked_ids, unreadable

BESIDE = ("tokenizer.json", "tokens.json")


class PieceTokenizer:
    """Scored pieces: of neighbours whose join is a piece, the best-scored are joined, repeatedly.

    content   tokens and their scores; byte_tokens_start, the id of byte 0, for characters that
              are no piece; bos and eos, the ids of special tokens; space, whether texts get one
              in front
    """

    def __init__(self, content: Mapping[str, Any], source: str = "tokens.json") -> None:
        try:
            self.pieces, self.scores = list(content["tokens"]), list(content["scores"])
            self.bytes = int(content["byte_tokens_start"])
        except (KeyError, TypeError, ValueError) as error:
            raise unreadable(source, error) from error
        self.text, self.space = json.dumps(dict(content)), bool(content.get("space", True))
        self.bos, self.eos = content.get("bos"), content.get("eos")
        self.ids = {piece: n for n, piece in reversed(list(enumerate(self.pieces)))}

    @property
    def size(self) -> int:
        return len(self.pieces)

    def encode(self, text: str) -> list[int]:
        ids = self._start(f" {text}" if text and self.space else text)
        while (best := self._best(ids)) is not None:
            place, new = best
            ids[place : place + 2] = [new]
        return ids

    def words(self, ids: Iterable[int]) -> list[str]:
        return [self._piece(n) for n in checked_ids(ids, self.size)]

    def _start(self, text: str) -> list[int]:
        ids: list[int] = []
        for character in text:
            piece = self.ids.get(character)
            ids += [piece] if piece is not None else [self.bytes + b for b in character.encode()]
        return ids

    def _best(self, ids: list[int]) -> tuple[int, int] | None:
        """The first of the best-scored joins of neighbours: its place and its piece."""
        merges = [
            (self.scores[new], -place, new)
            for place, (left, right) in enumerate(pairwise(ids))
            if (new := self.ids.get(self.pieces[left] + self.pieces[right])) is not None
        ]
        if not merges:
            return None
        _, place, new = max(merges)
        return -place, new

    def _piece(self, n: int) -> str:
        if 0 <= n - self.bytes < 256:
            return bytes([n - self.bytes]).decode("utf-8", "replace")
        return self.pieces[n].strip() if n in (self.bos, self.eos) else self.pieces[n]


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json or tokens.json. Raises WeightsError for another file."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
    except (OSError, ValueError) as error:
        raise unreadable(str(path), error) from error
    if isinstance(content, dict) and "model" in content and isinstance(content["model"], dict):
        return BpeTokenizer(text, str(path))
    return PieceTokenizer(content, str(path))


def tokenizer_beside(weights: Path) -> Tokenizer | None:
    """The tokenizer in the folder of a weights file: of the same name, else the folder's own."""
    for name in (beside(weights).name, *BESIDE):
        if (path := weights.with_name(name)).is_file():
            return read_tokenizer(path)
    return None


def beside(weights: Path) -> Path:
    """Where the tokenizer of one weights file among many lies."""
    return weights.with_suffix(".tokenizer.json")

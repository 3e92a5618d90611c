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

    told   tokens and their scores; byte_tokens_start, the id of byte 0, for characters that are
           no piece; bos and eos, the ids of special tokens; space, whether texts get one in front
    """

    def __init__(self, told: Mapping[str, Any], source: str = "tokens.json") -> None:
        try:
            self.pieces, self.scores = list(told["tokens"]), list(told["scores"])
            self.bytes = int(told["byte_tokens_start"])
        except (KeyError, TypeError, ValueError) as error:
            raise unreadable(source, error) from error
        self.text, self.space = json.dumps(dict(told)), bool(told.get("space", True))
        self.bos, self.eos = told.get("bos"), told.get("eos")
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
            own = self.ids.get(character)
            ids += [own] if own is not None else [self.bytes + b for b in character.encode()]
        return ids

    def _best(self, ids: list[int]) -> tuple[int, int] | None:
        """The first of the best-scored joins of neighbours: its place and its piece."""
        found = [
            (self.scores[new], -place, new)
            for place, (one, two) in enumerate(pairwise(ids))
            if (new := self.ids.get(self.pieces[one] + self.pieces[two])) is not None
        ]
        if not found:
            return None
        _, place, new = max(found)
        return -place, new

    def _piece(self, n: int) -> str:
        if 0 <= n - self.bytes < 256:
            return bytes([n - self.bytes]).decode("utf-8", "replace")
        return self.pieces[n].strip() if n in (self.bos, self.eos) else self.pieces[n]


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json or tokens.json. Raises WeightsError for another file."""
    try:
        text = path.read_text(encoding="utf-8")
        told = json.loads(text)
    except (OSError, ValueError) as error:
        raise unreadable(str(path), error) from error
    if isinstance(told, dict) and "model" in told and isinstance(told["model"], dict):
        return BpeTokenizer(text, str(path))
    return PieceTokenizer(told, str(path))


def tokenizer_beside(weights: Path) -> Tokenizer | None:
    """The tokenizer in the folder of a weights file: of the same name, else the folder's own."""
    for name in (beside(weights).name, *BESIDE):
        if (path := weights.with_name(name)).is_file():
            return read_tokenizer(path)
    return None


def beside(weights: Path) -> Path:
    """Where the tokenizer of one weights file among many lies."""
    return weights.with_suffix(".tokenizer.json")

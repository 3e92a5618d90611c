"""Text as token ids and back: byte-level pairs, scored pieces, or a Hugging Face tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .errors import ModelError, OptionError, WeightsError

if TYPE_CHECKING:
    import tokenizers

BESIDE = ("tokenizer.json", "tokens.json")


class Tokenizer(Protocol):
    """What cuts a model's text into tokens; ids never hold special tokens that the text lacks."""

    @property
    def size(self) -> int:
        """The number of tokens that it knows."""

    def encode(self, text: str) -> list[int]:
        """The token ids of a text."""

    def words(self, ids: Iterable[int]) -> list[str]:
        """The text of each token, with the spaces that it holds."""


class BpeTokenizer:
    """A tokenizer.json of Hugging Face, read by the package tokenizers at the first use."""

    def __init__(self, text: str, source: str = "tokenizer.json") -> None:
        self.text, self.source = text, source

    @cached_property
    def rules(self) -> tokenizers.Tokenizer:
        """The package's object. Raises OptionError without the package, WeightsError if unread."""
        try:
            from tokenizers import Tokenizer as Rules
        except ImportError as error:
            raise OptionError(
                f"reading {self.source!r} needs the package tokenizers, which is not installed: "
                "run pip install 'limelight[lm]'"
            ) from error
        try:
            return Rules.from_str(self.text)
        except Exception as error:
            raise _unread(self.source, error) from error

    @property
    def size(self) -> int:
        return self.rules.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        return self.rules.encode(text, add_special_tokens=False).ids

    def words(self, ids: Iterable[int]) -> list[str]:
        return [
            _word(self.rules.id_to_token(n), self.rules.decode([n], skip_special_tokens=False))
            for n in _known(ids, self.size)
        ]


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
            raise _unread(source, error) from error
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
        return [self._piece(n) for n in _known(ids, self.size)]

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


class HuggingFaceTokenizer:
    """A tokenizer of transformers, with this module's words."""

    def __init__(self, own: Any) -> None:
        self.own = own

    @property
    def size(self) -> int:
        return len(self.own)

    def encode(self, text: str) -> list[int]:
        return list(self.own.encode(text, add_special_tokens=False))

    def words(self, ids: Iterable[int]) -> list[str]:
        return [
            _word(self.own.convert_ids_to_tokens(n), self.own.decode([n]))
            for n in _known(ids, self.size)
        ]


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json or tokens.json. Raises WeightsError for another file."""
    try:
        text = path.read_text(encoding="utf-8")
        told = json.loads(text)
    except (OSError, ValueError) as error:
        raise _unread(str(path), error) from error
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


def tokenizer_of(model: object, tokenizer: object = None) -> Tokenizer:
    """The tokenizer given, else the one that the model carries as `tokenizer`.

    One of this module's protocol is taken as it is; one of transformers or of tokenizers is
    wrapped. Raises ModelError where there is none, OptionError for another object.
    """
    found: Any = getattr(model, "tokenizer", None) if tokenizer is None else tokenizer
    if found is None:
        raise ModelError(
            f"{type(model).__name__} carries no tokenizer: load it with its weights, set "
            "model.tokenizer, or give the tokenizer of a Hugging Face model itself"
        )
    kind = type(found)
    if _has(kind, "encode", "words"):
        return found
    if _has(kind, "encode", "convert_ids_to_tokens", "decode"):
        return HuggingFaceTokenizer(found)
    if _has(kind, "encode", "id_to_token", "to_str"):
        return BpeTokenizer(found.to_str())
    raise OptionError(
        f"a {kind.__name__} is no tokenizer: give one with encode, words and size, or one of "
        "transformers or tokenizers"
    )


def _has(kind: type, *names: str) -> bool:
    return all(callable(getattr(kind, name, None)) for name in names)


def _word(piece: str | None, decoded: str) -> str:
    """A piece with its spaces: decoders of one-token texts take the leading one off."""
    return piece.replace("▁", " ") if piece and "▁" in piece else decoded


def _known(ids: Iterable[int], size: int) -> list[int]:
    found = [int(n) for n in ids]
    if bad := [n for n in found if not 0 <= n < size]:
        raise OptionError(f"token {bad[0]} does not exist: ids go from 0 to {size - 1}")
    return found


def _unread(source: str, error: Exception) -> WeightsError:
    told = " ".join(str(error).split())[:120]
    return WeightsError(
        f"{source!r} is no tokenizer file that can be read ({type(error).__name__}: {told}): give "
        "a tokenizer.json of Hugging Face, or tokens.json with tokens, scores, byte_tokens_start"
    )

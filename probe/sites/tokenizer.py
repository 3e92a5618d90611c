"""Text as token ids and back: byte-level pairs, scored pieces, or a Hugging Face tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ModelError, OptionError, WeightsError

if TYPE_CHECKING:
    import tokenizers


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
            raise unreadable(self.source, error) from error

    @property
    def size(self) -> int:
        return self.rules.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        return self.rules.encode(text, add_special_tokens=False).ids

    def words(self, ids: Iterable[int]) -> list[str]:
        return [
            _word(self.rules.id_to_token(n), self.rules.decode([n], skip_special_tokens=False))
            for n in checked_ids(ids, self.size)
        ]


class HuggingFaceTokenizer:
    """A tokenizer of transformers, with this module's words."""

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped

    @property
    def size(self) -> int:
        return len(self.wrapped)

    def encode(self, text: str) -> list[int]:
        return list(self.wrapped.encode(text, add_special_tokens=False))

    def words(self, ids: Iterable[int]) -> list[str]:
        return [
            _word(self.wrapped.convert_ids_to_tokens(n), self.wrapped.decode([n]))
            for n in checked_ids(ids, self.size)
        ]


def tokenizer_of(model: object, tokenizer: object = None) -> Tokenizer:
    """The tokenizer given, else the one that the model carries as `tokenizer`.

    One of this module's protocol is taken as it is; one of transformers or of tokenizers is
    wrapped. Raises ModelError where there is none, OptionError for another object.
    """
    candidate: Any = getattr(model, "tokenizer", None) if tokenizer is None else tokenizer
    if candidate is None:
        raise ModelError(
            f"{type(model).__name__} carries no tokenizer: load it with its weights, set "
            "model.tokenizer, or give the tokenizer of a Hugging Face model itself"
        )
    kind = type(candidate)
    if _has(kind, "encode", "words"):
        plain: Tokenizer = candidate
        return plain
    if _has(kind, "encode", "convert_ids_to_tokens", "decode"):
        return HuggingFaceTokenizer(candidate)
    if _has(kind, "encode", "id_to_token", "to_str"):
        return BpeTokenizer(candidate.to_str())
    raise OptionError(
        f"a {kind.__name__} is no tokenizer: give one with encode, words and size, or one of "
        "transformers or tokenizers"
    )


def _has(kind: type, *names: str) -> bool:
    return all(callable(getattr(kind, name, None)) for name in names)


def _word(piece: str | None, decoded: str) -> str:
    """A piece with its spaces: decoders of one-token texts take the leading one off."""
    return piece.replace("▁", " ") if piece and "▁" in piece else decoded


def checked_ids(ids: Iterable[int], size: int) -> list[int]:
    checked = [int(n) for n in ids]
    if bad := [n for n in checked if not 0 <= n < size]:
        raise OptionError(f"token {bad[0]} does not exist: ids go from 0 to {size - 1}")
    return checked


def unreadable(source: str, error: Exception) -> WeightsError:
    reason = " ".join(str(error).split())[:120]
    return WeightsError(
        f"{source!r} is no tokenizer file that can be read ({type(error).__name__}: {reason}): "
        "give a tokenizer.json of Hugging Face, or tokens.json with tokens, scores, "
        "byte_tokens_start"
    )

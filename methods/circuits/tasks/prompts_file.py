"""Prompt pairs from a user's file: JSON lines, or a JSON list, one record a pair.

{"clean": "... John gave a map to", "corrupt": "...", "answer": " Mary", "wrong": " John"}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ....probe.errors import OptionError, near
from ....probe.targets import Of
from .pairs import Pair, Pairs
from .prompts import Prompt, PromptError, Tokenizer, tokenise

# The words a record may use for each part; the first is the one that messages name.
KEYS = {
    "clean": ("clean", "positive"),
    "corrupt": ("corrupt", "corrupted", "negative"),
    "answer": ("answer", "good", "io"),
    "wrong": ("wrong", "bad", "s"),
}


@dataclass(frozen=True)
class Record:
    """One record and where it stands: `line 3`, or `entry 3` of a list."""

    place: str
    value: object


@dataclass(frozen=True)
class RecordReader:
    """How records become pairs.

    bos     an id put before every prompt
    first   of answers of several tokens take the first, less those that both sides share; None to
            do so for records about years ("year" and "century") only
    """

    tokenizer: Tokenizer
    bos: int | None = None
    first: bool | None = None

    def pair(self, record: Record) -> Pair:
        """Raises PromptError when the record cannot be used."""
        value = record.value
        if isinstance(value, PromptError):
            raise value
        if not isinstance(value, Mapping):
            raise PromptError(f"an object was expected, not {type(value).__name__}")
        first = _about_years(value) if self.first is None else self.first
        return tokenise(_prompt(value), self.tokenizer, bos=self.bos, first=first)


def read_prompts(
    path: str | Path,
    tokenizer: Tokenizer,
    *,
    of: Of | None = None,
    bos: int | None = None,
    first: bool | None = None,
    skip: bool = False,
) -> Pairs:
    """All pairs of a file, in order.

    of      "logit" or "probability"; None for logits, or probabilities where it is about years
    first   see `RecordReader`
    skip    leave out records that cannot be used, and say so in `about`, in place of raising
    Raises OptionError with the number of such records and the first three reasons.
    """
    path = Path(path)
    records = list(_records(path))
    reading = RecordReader(tokenizer, bos, first)
    pairs, wrong = [], []
    for record in records:
        try:
            pairs.append(reading.pair(record))
        except PromptError as error:
            wrong.append(f"{record.place}: {error}")
    if not pairs or (wrong and not skip):
        raise OptionError(_complaint(path, len(records), wrong))
    if of is None:
        years = all(_about_years(r.value) for r in records)
        of = "probability" if years else "logit"
    left = f", {len(wrong)} left out" if wrong else ""
    about = f"{path.name}, {len(records)} records{left}"
    return Pairs(path.stem, tuple(pairs), of, about)


def _records(path: Path) -> Iterator[Record]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"the prompts of {str(path)!r} cannot be read: {error}") from None
    if text.lstrip().startswith("["):
        yield from _entries(path, text)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield Record(f"line {number}", _value(line))


def _entries(path: Path, text: str) -> Iterator[Record]:
    values = _value(text)
    if isinstance(values, PromptError):
        raise OptionError(f"{path.name}: {values}")
    for number, value in enumerate(cast("list[object]", values), 1):
        yield Record(f"entry {number}", value)


def _value(text: str) -> object:
    """What the text says in JSON, or the error that it is none."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:
        return PromptError("characters that are no UTF-8, as half of a pair of surrogates is")
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, " if "\n" in text else ""
        return PromptError(f"no JSON ({error.msg} at {where}column {error.colno})")
    except (ValueError, RecursionError):
        return PromptError("JSON that is too deep, or whose numbers are too long")


def _prompt(record: Mapping[str, Any]) -> Prompt:
    parts = {part: _part(record, part) for part in KEYS}
    for part in ("clean", "corrupt"):
        if not isinstance(parts[part], str):
            raise PromptError(f"{part!r} is text, not {type(parts[part]).__name__}")
    return Prompt(
        parts["clean"],
        parts["corrupt"],
        _texts("answer", parts["answer"]),
        _texts("wrong", parts["wrong"]),
    )


def _part(record: Mapping[str, Any], part: str) -> Any:
    given = [key for key in KEYS[part] if key in record]
    if len(given) == 1:
        return record[given[0]]
    if given:
        raise PromptError(f"{' and '.join(map(repr, given))} say the same: keep one")
    words = " or ".join(map(repr, KEYS[part]))
    hint = "".join(near(word, record) for word in KEYS[part][:1])
    raise PromptError(f"{words} is missing{hint}")


def _texts(part: str, value: object) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise PromptError(f"{part!r} is an empty list")
    for text in values:
        if not isinstance(text, str):
            raise PromptError(f"{part!r} is text or a list of texts, not {type(text).__name__}")
    return tuple(values)


def _about_years(record: object) -> bool:
    return isinstance(record, Mapping) and {"year", "century"} <= set(record)


def _complaint(path: Path, total: int, wrong: list[str]) -> str:
    if not total:
        return f"{str(path)!r} holds no prompts: write one JSON object a line"
    shown = "; ".join(wrong[:3])
    more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return (
        f"{path.name}: {len(wrong)} of {total} records cannot be used: {shown}{more}; mend them, "
        "or leave them out with skip=True"
    )

"""Parquet files that carry their own checksum, so that damage is told before numbers are read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from ...probe.errors import LimelightError
from ...probe.results import parquet_bytes

if TYPE_CHECKING:
    import pyarrow as pa

_KEY = "limelight.sha256"
_BLANK = "0" * 64
_LENGTH_OF_VALUE = b".{1,4}?"  # what Parquet's footer puts between a key and its value
_SEAL = re.compile(_KEY.encode() + _LENGTH_OF_VALUE + b"([0-9a-f]{64})", re.DOTALL)


class SealError(LimelightError):
    """A file that is not what was written. Its text goes on after the file's name."""


@dataclass(frozen=True, eq=False)
class Unsealed:
    """A file's bytes, the marks in its metadata, and whether a checksum was among them."""

    content: bytes
    marks: dict[str, str]
    sealed: bool


def seal(table: pa.Table, marks: Mapping[str, str]) -> bytes:
    """The table as a Parquet file with marks in its metadata, one of them its SHA-256.

    The checksum is that of the file in which 64 zeros stand in its own place.
    """
    content = parquet_bytes(table.replace_schema_metadata({**marks, _KEY: _BLANK}))
    start, stop = _place(content) or (0, 0)
    return content[:start] + _digest(content, start, stop) + content[stop:]


def unseal(path: Path) -> Unsealed:
    """A file that `seal` made; one without a checksum is decoded, to see that it can be.

    Raises SealError for a file that is damaged, or cannot be read.
    """
    from pyarrow import ArrowException, BufferReader, parquet

    if not path.is_file():
        raise SealError("is no file")
    try:
        content = path.read_bytes()
        place = _place(content)
        if place and content[slice(*place)] != _digest(content, *place):
            raise SealError("does not match its checksum: it was changed")
        with parquet.ParquetFile(BufferReader(content)) as file:
            raw = file.schema_arrow.metadata or {}
            marks = {_text(name): _text(value) for name, value in raw.items()}
            for _ in () if place else file.iter_batches(batch_size=256):
                pass
    except (ArrowException, OSError, ValueError) as error:
        reason = (
            str(error).strip().partition("\n")[0].partition(". ")[0][:80] or type(error).__name__
        )
        raise SealError(f"cannot be read ({reason})") from error
    return Unsealed(content, marks, place is not None)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _place(content: bytes) -> tuple[int, int] | None:
    """Where the checksum stands: behind the last mention of its key, which is in the footer."""
    last = content.rfind(_KEY.encode())
    found = _SEAL.match(content, last) if last >= 0 else None
    return found.span(1) if found else None


def _digest(content: bytes, start: int, stop: int) -> bytes:
    view, state = memoryview(content), sha256()
    for part in (view[:start], _BLANK.encode(), view[stop:]):
        state.update(part)
    return state.hexdigest().encode()

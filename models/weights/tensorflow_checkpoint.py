"""TensorFlow checkpoints (format V2, of TF 1 and 2) as tensors by variable, without TensorFlow.

`<name>.index` is a sorted table: keys are variables, values say where in which of the files
`<name>.data-00000-of-00001`, ... a variable's bytes lie. Both are read from disk or from a tar.
"""

from __future__ import annotations

import math
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import torch

from ...probe.errors import WeightsError
from ..card import State

INDEX = ".index"
TARS = (".gz", ".tgz")
MAGIC, FOOTER, TRAILER = 0xDB4775248B80FB57, 48, 5  # of a sorted table; a block ends in 5 bytes
TYPES = {
    1: torch.float32,
    2: torch.float64,
    3: torch.int32,
    4: torch.uint8,
    5: torch.int16,
    6: torch.int8,
    9: torch.int64,
    10: torch.bool,
    14: torch.bfloat16,
    19: torch.float16,
}
DAMAGED = (OSError, EOFError, tarfile.TarError, zlib.error, struct.error, IndexError, KeyError)
Fields = dict[int, list[int | bytes]]


@dataclass(frozen=True)
class Place:
    """Where a variable lies: its type and shape, the file, and the bytes in it."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    shard: int
    start: int
    size: int


def read_checkpoint(path: Path) -> State:
    """The variables of a checkpoint; entries that are no tensors, such as texts, are left out.

    path   its `.index`, with the data files beside it, or a `.tar.gz` that holds one checkpoint
    Raises WeightsError for a file that is damaged, cut or of another kind.
    """
    try:
        if path.suffix == INDEX:
            return _variables(path.name, lambda name: (path.parent / name).open("rb"))
        with tarfile.open(path) as tar:
            return _from_tar(tar, path)
    except WeightsError:
        raise
    except DAMAGED as error:
        raise WeightsError(
            f"TensorFlow checkpoint {str(path)!r} cannot be read ({error}): fetch it again, with "
            "its index and all its data files"
        ) from error


def _from_tar(tar: tarfile.TarFile, path: Path) -> State:
    members = {m.name: m for m in tar.getmembers() if m.isfile()}
    found = [name for name in members if name.endswith(INDEX)]
    if len(found) != 1:
        raise WeightsError(
            f"{str(path)!r} holds {len(found)} files that end in {INDEX!r}, where a TensorFlow "
            "checkpoint has one: unpack it and give the one to read"
        )
    folder = PurePosixPath(found[0]).parent

    def opened(name: str) -> BinaryIO:
        file = tar.extractfile(members[str(folder / name)])
        if file is None:
            raise OSError(f"{name} is no file")
        return file  # type: ignore[return-value]

    return _variables(PurePosixPath(found[0]).name, opened)


def _variables(index: str, opened: Callable[[str], BinaryIO]) -> State:
    """Every variable, read in the order of the data files."""
    with opened(index) as file:
        entries = dict(_table(file.read()))
    header = _fields(entries.pop(b"", b""))
    shards = _whole(header, 1, 1)
    if _whole(header, 2):
        raise WeightsError(f"{index!r} was written big end first: save it anew on another machine")
    named = {name.decode(errors="replace"): value for name, value in entries.items()}
    places = {name: _place(name, value) for name, value in named.items()}
    state: State = {}
    with ExitStack() as stack:
        files: dict[int, BinaryIO] = {}
        for name, place in sorted(places.items(), key=lambda item: _order(item[1])):
            if place is None:
                continue
            if place.shard not in files:
                data = f"{index.removesuffix(INDEX)}.data-{place.shard:05}-of-{shards:05}"
                files[place.shard] = stack.enter_context(opened(data))
            state[name] = _tensor(name, place, files[place.shard])
    return {name: state[name] for name in places if name in state}


def _order(place: Place | None) -> tuple[int, int]:
    return (place.shard, place.start) if place else (-1, -1)


def _tensor(name: str, place: Place, file: BinaryIO) -> torch.Tensor:
    file.seek(place.start)
    data = bytearray(file.read(place.size))
    if len(data) != place.size or place.size != math.prod(place.shape) * place.dtype.itemsize:
        raise OSError(f"{len(data)} bytes of {name!r}, whose shape is {place.shape}")
    if not data:
        return torch.empty(place.shape, dtype=place.dtype)
    return torch.frombuffer(data, dtype=place.dtype).reshape(place.shape)


def _place(name: str, entry: bytes) -> Place | None:
    """A BundleEntryProto: type 1, shape 2, file 3, start 4, size 5, slices 7."""
    fields = _fields(entry)
    if 7 in fields:
        raise WeightsError(
            f"variable {name!r} of the checkpoint is cut into slices: save it unpartitioned"
        )
    dtype = TYPES.get(_whole(fields, 1))
    if dtype is None:
        return None
    dims = _fields(_bytes(fields, 2)).get(2, [])
    shape = tuple(_whole(_fields(dim), 1) for dim in dims if isinstance(dim, bytes))
    return Place(dtype, shape, _whole(fields, 3), _whole(fields, 4), _whole(fields, 5))


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The entries of a sorted table: an index block names the blocks that hold them."""
    if len(data) < FOOTER or struct.unpack("<Q", data[-8:])[0] != MAGIC:
        raise OSError("the index is no table of TensorFlow's format V2")
    at = len(data) - FOOTER
    for _ in range(2):  # where the block of metadata lies, which is empty
        _, at = _varint(data, at)
    start, at = _varint(data, at)
    size, at = _varint(data, at)
    for _, handle in _block(data, start, size):
        start, at = _varint(handle, 0)
        size, at = _varint(handle, at)
        yield from _block(data, start, size)


def _block(data: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of one block; a key repeats only what differs from the one before."""
    if data[start + size] != 0:
        raise OSError("the index is compressed: save the checkpoint anew")
    block = data[start : start + size]
    (restarts,) = struct.unpack("<I", block[-4:])
    end, at, key = size - 4 * (restarts + 1), 0, b""
    while at < end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + own]
        yield key, block[at + own : at + own + length]
        at += own + length


def _fields(message: bytes) -> Fields:
    """The fields of a protocol buffer by number."""
    fields: Fields = {}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value: int | bytes
        if tag & 7 == 0:
            value, at = _varint(message, at)
        else:
            length = {1: 8, 5: 4}.get(tag & 7, -1)
            if length < 0:
                length, at = _varint(message, at)
            value, at = message[at : at + length], at + length
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and where the next thing starts."""
    value = shift = 0
    while data[at] & 128:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
    return value | data[at] << shift, at + 1


def _whole(fields: Fields, number: int, usual: int = 0) -> int:
    value = fields.get(number, [usual])[-1]
    return value if isinstance(value, int) else usual


def _bytes(fields: Fields, number: int) -> bytes:
    value = fields.get(number, [b""])[-1]
    return value if isinstance(value, bytes) else b""

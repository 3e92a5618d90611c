"""A run as a TOML file: every key checked, paths counted from the file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...models.inputs import address_fault
from ...probe.errors import LimelightError, OptionError, near

_WORDS = (str, list)
_SIDES, _NUMBERS = (int, list), (int, float, list)
KEYS: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "weights": (str,),
    "hyper": (dict,),
    "data": (str,),
    "root": (str,),
    "inputs": (str, list, dict),
    "axes": (dict,),
    "methods": _WORDS,
    "sites": _WORDS,
    "target": (str, int, list),
    "shard": (int,),
    "seed": (int,),
    "limit": (int,),
    "labels": _WORDS,
    "size": _SIDES,
    "resize": _SIDES,
    "interpolation": (str,),
    "mean": _NUMBERS,
    "std": _NUMBERS,
    "device": (str,),
    "dtype": (str,),
    "batch": (str, int),
    "workers": (int,),
    "engine": (str,),
    "address": (str,),
}
_KINDS = {str: "text", list: "a list", dict: "a table", int: "a whole number", float: "a number"}


def read_plan(path: Path) -> dict[str, Any]:
    """The keys of a plan file. Raises LimelightError for what is no TOML, OptionError for a key."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LimelightError(f"plan {str(path)!r} does not exist; check the path") from None
    except RecursionError:
        raise LimelightError(f"plan {str(path)!r} is nested too deep: write it flat") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LimelightError(f"plan {str(path)!r} cannot be read: {error}") from error
    for name, value in raw.items():
        _check(path, name, value)
    for name in ("data", "root"):
        if name in raw and not address_fault(raw[name], name):
            raw[name] = str(path.parent / Path(raw[name]).expanduser())
    for name in ("weights", "labels"):
        file = raw.get(name)
        if isinstance(file, str) and (path.parent / file).is_file():
            raw[name] = str(path.parent / file)
    return raw


def _check(path: Path, name: str, value: object) -> None:
    if name not in KEYS:
        hint = near(name, KEYS) or f"; there are {', '.join(KEYS)}"
        raise OptionError(f"plan {str(path)!r} has the key {name!r}, which is unknown{hint}")
    kinds = KEYS[name]
    listed = value if isinstance(value, list) else []
    parts = (int, float) if kinds in (_SIDES, _NUMBERS) else (str, int)
    words = all(isinstance(v, parts) and not isinstance(v, bool) for v in listed)
    if isinstance(value, bool) or not isinstance(value, kinds) or not words:
        wanted = " or ".join(_KINDS[kind] for kind in kinds)
        raise OptionError(f"plan {str(path)!r}: {name} = {value!r} must be {wanted}")


def merged(plan: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """A plan with what was also asked for in words. Raises OptionError for what is missing."""
    given = {name: value for name, value in options.items() if value not in (None, [])}
    hyper = {**plan.get("hyper", {}), **options.get("hyper", {})}
    asked = {**plan, **given, "hyper": hyper}
    for name, way in (("model", "name one of `limelight models`"), ("data", "give a folder")):
        if not asked.get(name):
            raise OptionError(f"the run names no {name}: {way}, in the plan or on the command line")
    return asked

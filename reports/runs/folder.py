"""A run's folder: claimed by one plan, its parts held against it, and healed when asked to."""

from __future__ import annotations

import warnings
from dataclasses import fields
from itertools import count
from pathlib import Path

from ...models.inputs import address_fault, missing
from ...probe.errors import LimelightError
from .plan import FILE, RunPlan
from .store import FOLDER, parts_of


def claim(folder: Path, plan: RunPlan, *, repair: bool = False, force: bool = False) -> set[int]:
    """Make a folder the plan's; the numbers of the parts that are done.

    repair  put broken parts aside, so that they are computed anew, and write a lost plan again
    force   also in a folder that holds other files
    Raises LimelightError when the folder is another run's or no run's, or a part is broken.
    """
    if fault := address_fault(folder, "run folder"):
        raise LimelightError(fault)
    if folder.is_symlink() and not folder.exists():
        raise LimelightError(f"run folder {str(folder)!r} {missing(folder)}")
    if not force:
        _check_own(folder)
    parts = parts_of(folder, plan)
    owned = _is_owned(folder, plan, len(parts.done) - len(parts.unsealed), repair=repair)
    if not owned:
        parts.distrust_unsealed()
    if not repair:
        parts.check()
    try:
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        for error in parts.bad:
            kept = put_aside(error.path)
            warnings.warn(f"{error.path.name} {error.reason}: it is kept as {kept}", stacklevel=5)
        if not owned and (folder / FILE).exists():
            put_aside(folder / FILE)
    except OSError as error:
        raise LimelightError(
            f"run folder {str(folder)!r} cannot be made: {error.strerror or error}"
        ) from error
    if not owned:
        plan.save(folder)
        _is_owned(folder, plan, 0, repair=False)  # refuses where another run was faster
    return parts.done


def _check_own(folder: Path) -> None:
    """Refuse a folder with files in which no run was begun; hidden ones do not count."""
    if not folder.is_dir() or (folder / FILE).exists() or (folder / FOLDER).exists():
        return
    strange = sorted(p.name for p in folder.iterdir() if not p.name.startswith((".", "_")))
    if strange:
        raise LimelightError(
            f"run folder {str(folder)!r} holds {len(strange)} files that are of no run, such as "
            f"{strange[0]!r}: choose another folder, or say --force (force=True in Python)"
        )


def _is_owned(folder: Path, plan: RunPlan, whole: int, *, repair: bool) -> bool:
    """Whether the folder's plan is this one; not so where it is lost and is to be written.

    whole  how many parts say that they are of this plan
    Raises LimelightError where the folder is another run's.
    """
    if not (folder / FILE).exists():
        return False
    try:
        old = RunPlan.load(folder)
    except LimelightError:
        if repair:
            return False
        raise
    if old.hash != plan.hash and not (whole and repair):
        raise LimelightError(_refusal(folder, old, plan, whole))
    return old.hash == plan.hash


def _refusal(folder: Path, old: RunPlan, plan: RunPlan, whole: int) -> str:
    changed = [
        f"{f.name} was {_short(getattr(old, f.name))}, now {_short(getattr(plan, f.name))}"
        for f in fields(RunPlan)
        if f.name != "told" and getattr(old, f.name) != getattr(plan, f.name)
    ]
    way = "runs do not mix: choose another folder, or ask for the same again"
    if whole:
        way = (
            f"but {whole} of its parts are of the run that is asked for: {FILE} was replaced, and "
            "--repair (repair=True in Python) writes it anew"
        )
    return f"{str(folder)!r} holds another run ({'; '.join(changed)}); {way}"


def _short(value: object) -> str:
    text = ", ".join(value) if isinstance(value, tuple) else str(value)
    return text if len(text) < 60 else text[:57] + "..."


def put_aside(path: Path) -> str:
    """Give a file a name that no reader of the folder takes; that name."""
    names = (f"_{path.name}" + (f".{n}" if n else "") for n in count())
    kept = next(place for name in names if not (place := path.with_name(name)).exists())
    path.rename(kept)
    return kept.name

"""What a run computes, as data: its hash says whether two runs may share a folder."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from ...models.inputs import Preprocessing, missing, transform_name
from ...models.weights import fingerprint
from ...probe.attribution import BoundMethod
from ...probe.engine import about_model
from ...probe.errors import LimelightError, OptionError
from ...probe.results import write
from ...probe.targets import Reading, Target, class_in, label, target_in, targets
from ..datasets import Preparation, Samples, described

FILE = "plan.json"
LABEL = "label"
RunTarget = Target | str | int


@dataclass(frozen=True)
class RunPlan:
    """A run, described by what changes its numbers.

    weights    fingerprint of all parameters and buffers
    data       digest of the rows; samples: how many; shard: samples in one part
    methods    with their options; those of other packages with a digest of their code
    targets    as written; a target built in Python with a digest of what it holds
    labels     digest of class names in place of the model's; "" where its own are used
    told       what is recorded, but may differ between sessions of one run
    """

    model: str
    weights: str
    preprocessing: str
    data: str
    samples: int
    shard: int
    methods: tuple[str, ...]
    sites: tuple[str, ...]
    targets: tuple[str, ...]
    seed: int
    dtype: str
    labels: str = ""
    told: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def hash(self) -> str:
        """16 hex digits over everything but what is merely told."""
        numbers = {**asdict(self), "told": None}
        return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def shards(self) -> list[range]:
        """Places of the samples, part by part."""
        size, count = self.shard, self.samples
        return [range(start, min(start + size, count)) for start in range(0, count, size)]

    def save(self, folder: Path) -> None:
        """Write the plan, unless another process has just written one: the first has the folder."""
        text = json.dumps({**asdict(self), "hash": self.hash}, indent=2).encode()
        own = folder / f".{FILE}.{os.getpid()}"
        write(own, text)
        try:
            os.link(own, folder / FILE)
        except FileExistsError:
            return
        except OSError:  # this file system has no second names for files
            write(folder / FILE, text)
        finally:
            own.unlink(missing_ok=True)

    @staticmethod
    def load(folder: Path) -> RunPlan:
        """Read the plan of a run's folder. Raises LimelightError where there is none."""
        path = folder / FILE
        if not folder.exists():
            raise LimelightError(f"run folder {str(folder)!r} {missing(folder)}")
        if not path.exists():
            raise LimelightError(
                f"{str(folder)!r} holds no run: there is no {FILE} in it; give a folder that "
                "`limelight run` or limelight.run wrote, or ask for its run again"
            )
        try:
            if not path.is_file():
                raise ValueError("it is no file")
            raw = json.loads(path.read_text(encoding="utf-8"))
            plan = _plan_in(raw)
            told_all = all(f.name in raw for f in fields(RunPlan))  # else an earlier version's
            if told_all and raw.get("hash", plan.hash) != plan.hash:
                raise ValueError("it was changed after it was written")
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise LimelightError(
                f"{str(path)!r} is damaged ({error}); ask for the run again with --repair "
                "(repair=True in Python), which writes it anew"
            ) from error
        return plan


def _plan_in(raw: Any) -> RunPlan:
    """The plan that a file holds. Raises TypeError, ValueError."""
    if not isinstance(raw, dict):
        raise TypeError("it is no table of names and values")
    names = {f.name for f in fields(RunPlan)}
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in raw.items() if k in names
    }
    plan = RunPlan(**values)
    for name, kind in get_type_hints(RunPlan).items():
        value, wanted = getattr(plan, name), get_origin(kind) or kind
        words = all(isinstance(word, str) for word in value) if wanted is tuple else True
        if type(value) is not wanted or not words:
            raise TypeError(f"its {name} is {value!r:.60}")
    if plan.shard < 1 or plan.samples < 0:
        raise ValueError(f"{plan.samples} samples in parts of {plan.shard}")
    return plan


def make_plan(
    net: nn.Module,
    preparation: Preparation,
    samples: Samples,
    bounds: Sequence[BoundMethod],
    sites: Sequence[str],
    wanted: Sequence[RunTarget],
    *,
    shard: int,
    seed: int,
    labels: Sequence[str] | None = None,
) -> RunPlan:
    """Describe a run. Raises OptionError for a shard of no samples."""
    if shard < 1:
        raise OptionError(f"shard={shard}: give at least 1 sample to a part")
    about = about_model(net, seed)
    told = {
        "created": about.created,
        "versions": dict(about.versions),
        "notes": [*about.notes, *preparation.notes],
        "readings": [unusual_reading(target) for target in wanted],
        "worded": [isinstance(target, (str, int)) for target in wanted],
        "inputs": list(samples.inputs),
        "features": preparation.features,
        "orders": {
            "kinds": dict(preparation.kinds),
            "axes": dict(preparation.axes),
            "explained": preparation.explained,
            "names": preparation.names,
        },
    }
    return RunPlan(
        about.model,
        fingerprint(net),
        describe_preparation(preparation),
        samples.digest,
        len(samples),
        shard,
        tuple(_spec(bound) for bound in bounds),
        tuple(str(site) for site in sites),
        tuple(describe_target(target) for target in wanted),
        seed,
        about.dtype,
        "" if labels is None else _digest("\n".join(labels)),
        told,
    )


def describe_preparation(used: Preparation) -> str:
    """How inputs came about in words that change when the numbers do."""
    photos = "none" if used.photos is None else describe_preprocessing(used.photos)
    return "; ".join(filter(None, (photos, described(used))))


def describe_preprocessing(used: Preprocessing) -> str:
    """A preprocessing in words that change when the numbers do; of a transform also its code."""
    if used.transform is not None:
        return f"transform {transform_name(used.transform)} #{_code(used.transform)}"
    return (
        f"resize {used.resize} {used.interpolation}, crop {list(used.size)}, mean "
        f"{[round(v, 4) for v in used.mean]}, std {[round(v, 4) for v in used.std]}"
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _spec(bound: BoundMethod) -> str:
    """A method, its options, its sites; and its code, where it is none of ours."""
    options = "".join(f",{name}={value}" for name, value in bound.options)
    sites = f" at {bound.sites}" if bound.sites is not None else ""
    ours = bound.method.function.__module__.startswith(__name__.partition(".")[0] + ".")
    return (
        bound.method.name + options + sites + ("" if ours else f" #{_code(bound.method.function)}")
    )


def _code(function: Any) -> str:
    """A digest of a function's code; of another callable, of its class's."""
    code = getattr(function, "__code__", None)
    try:
        text = inspect.getsource(function if inspect.isroutine(function) else type(function))
    except (OSError, TypeError):
        text = repr((code.co_code, code.co_consts)) if code else type(function).__qualname__
    return _digest(text)


def describe_target(target: RunTarget) -> str:
    """A target in words that change when what it means changes."""
    if not isinstance(target, Target):
        read = target_in(target) if isinstance(target, str) else None
        digest = _digest_of_files(read) if isinstance(read, Target) else ""
        return f"{target}#{digest}" if digest else str(target)
    name = target.name + ("" if target.reading is None else target.reading.told_of)
    if target.query is not None:
        return f"{name}#{_digest_of_files(target)}"
    if target.rows is None and target.mask is None:
        return name
    tensors = [part for part in (target.rows, target.mask) if part is not None]
    if any(len(part) > 1 for part in tensors):
        raise OptionError(
            f"target {target.name!r} is given per sample; in a run the classes come from the data: "
            f"write target='{LABEL}'"
        )
    return f"{name} {' '.join(target.words)}#{_digest_of(tensors)}"


def unusual_reading(target: RunTarget) -> dict[str, Any]:
    """How a target of a class reads an output, as keywords of `limelight.label`, where unusual."""
    if target == LABEL or isinstance(target, int):
        return {}
    made = target_of(target, []) if isinstance(target, str) else target
    reading = made.reading
    if reading is None or made.pick is None:
        return {}
    return {n: v for n in _READING if (v := getattr(reading, n)) != getattr(Reading(), n)}


_READING = ("at", "of", "dense", "position")


def _digest_of_files(target: Target) -> str:
    """Of what a target in words reads from files: a picture, a mask, a reference (no class).

    "" where it reads none.
    """
    if target.query is not None:
        return hashlib.sha256(target.query.read_bytes()).hexdigest()[:8]
    reference = target.rows if target.rows is not None and target.rows.is_floating_point() else None
    parts = [part for part in (reference, target.mask) if part is not None]
    return _digest_of(parts) if parts else ""


def _digest_of(tensors: Sequence[Tensor]) -> str:
    held = b"".join(part.double().cpu().numpy().tobytes() for part in tensors)
    return hashlib.sha256(held).hexdigest()[:8]


def target_of(target: RunTarget, labels: Sequence[int | str | None]) -> Target:
    """One target of a batch; `label` means the class of each sample."""
    if isinstance(target, Target):
        return target
    if target == LABEL:
        # a sample without a label is refused by `label`, in its own words
        return label([class_in(v) if isinstance(v, str) else v for v in labels])  # type: ignore[misc]
    return targets(target)[0]


def flat_targets(spec: Any) -> list[RunTarget]:
    """The targets of a run: strings stay as written, `top:3` becomes three."""
    flat: list[RunTarget] = []
    for target in spec if isinstance(spec, (list, tuple)) else [spec]:
        if isinstance(target, str) and target != LABEL:
            parsed = target_in(target)
            flat += parsed if isinstance(parsed, tuple) else [target]
        elif isinstance(target, (str, int)):
            flat.append(target)
        else:
            flat += targets(target)
    return flat


def as_dtype(name: str | None) -> torch.dtype | None:
    """`bfloat16`, `float32` ... as torch says it. Raises OptionError."""
    if name is None:
        return None
    dtype = getattr(torch, str(name).removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise OptionError(f"dtype {name!r} is unknown: write float32, bfloat16 or float64")
    return dtype

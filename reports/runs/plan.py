"""What a run computes, as data: its hash says whether two runs may share a folder."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...models.inputs import Preprocessing, transform_name
from ...models.weights import fingerprint
from ...probe.attribution import BoundMethod
from ...probe.engine import about_model
from ...probe.errors import LimelightError, OptionError
from ...probe.results import write
from ...probe.targets import Reading, Target, class_in, label, ranked, target_in, targets
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
        text = json.dumps({**asdict(self), "hash": self.hash}, indent=2)
        write(folder / FILE, text.encode())

    @staticmethod
    def load(folder: Path) -> RunPlan:
        """Read the plan of a run's folder. Raises LimelightError where there is none."""
        path = folder / FILE
        try:
            raw = json.loads(path.read_text())
            names = {f.name for f in fields(RunPlan)}
            values: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in raw.items() if k in names
            }
            return RunPlan(**values)
        except FileNotFoundError:
            raise LimelightError(
                f"{str(folder)!r} holds no run: there is no {FILE} in it; give a folder that "
                "`limelight run` or limelight.run wrote"
            ) from None
        except (ValueError, TypeError) as error:
            raise LimelightError(f"{str(path)!r} is damaged ({error}); start the run anew") from (
                error
            )


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
    if target == "least":
        return ranked(-1)
    first, *_ = targets(target_in(str(target)) if isinstance(target, str) else target)
    return first


def flat_targets(spec: Any) -> list[RunTarget]:
    """The targets of a run: strings stay as written, `top:3` becomes three."""
    flat: list[RunTarget] = []
    for target in spec if isinstance(spec, (list, tuple)) else [spec]:
        if isinstance(target, str) and target not in (LABEL, "least"):
            parsed = target_in(target)
            flat += parsed if isinstance(parsed, tuple) else [target]
        elif isinstance(target, (str, int)):
            flat.append(target)
        else:
            flat += targets(target)
    return flat


def same_or_refuse(folder: Path, plan: RunPlan) -> None:
    """Claim a folder for a plan. Raises LimelightError when it belongs to another."""
    if not (folder / FILE).exists():
        try:
            (folder / "maps").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LimelightError(
                f"run folder {str(folder)!r} cannot be made: {error.strerror or error}"
            ) from error
        plan.save(folder)
        return
    old = RunPlan.load(folder)
    if old.hash != plan.hash:
        changed = [
            f"{f.name} was {_short(getattr(old, f.name))}, now {_short(getattr(plan, f.name))}"
            for f in fields(RunPlan)
            if f.name != "told" and getattr(old, f.name) != getattr(plan, f.name)
        ]
        raise LimelightError(
            f"{str(folder)!r} holds another run ({'; '.join(changed)}); runs do not mix: choose "
            "another folder, or ask for the same again"
        )
    (folder / "maps").mkdir(exist_ok=True)


def _short(value: object) -> str:
    text = ", ".join(value) if isinstance(value, tuple) else str(value)
    return text if len(text) < 60 else text[:57] + "..."


def as_dtype(name: str | None) -> torch.dtype | None:
    """`bfloat16`, `float32` ... as torch says it. Raises OptionError."""
    if name is None:
        return None
    dtype = getattr(torch, str(name).removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise OptionError(f"dtype {name!r} is unknown: write float32, bfloat16 or float64")
    return dtype

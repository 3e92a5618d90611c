"""What `limelight circuit` does: model, pairs, scores, the page, and what is printed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ..methods.circuits.circuit import Circuit, circuit
from ..methods.circuits.tasks import Pairs, picture_pairs
from ..models import list_models
from ..models.inputs import class_index, preprocess
from ..probe.attribution import convert
from ..probe.errors import OptionError
from ..reports.circuit_page import check_sizes, circuit_report, head_name
from ..reports.html import number, three
from .inputs import hyper, model_of, pictures, writable
from .terminal import console_for, new_table, progress

_TOP = 10
_HEADS = re.compile(r"\d+\.\d+(,\d+\.\d+)*")


@dataclass(frozen=True)
class Photos:
    """Photos of two classes instead of a task: two folders, files or patterns."""

    sides: tuple[str, str]
    good: str | None
    bad: str | None


def run_circuit(
    model: str,
    task: str,
    out: Path,
    *,
    methods: Sequence[str] | None,
    truth: str,
    photos: Photos | None,
    weights: str | None,
    settings: Sequence[str] | None,
    device: str | None,
    save: Path | None,
    by: str,
    heads: int,
    prompts: int,
    checked: int,
    **options: Any,
) -> Circuit:
    """Score the heads of a model, write the page, print the figures."""
    writable(out, "-o", (".html", ".htm"))
    check_sizes(heads, prompts, checked)
    exchanged = convert("circuit", "--by", by, Literal["mean", "zero", "resample"])
    judged = judged_by(truth)
    with progress(f"loading {model}") as tell:
        net = model_of(model, weights_of(model, weights), hyper(settings), device)
        tell(0, 1, task)
        pairs: Pairs | str = task if photos is None else photo_pairs(net, photos, options["count"])
        found = circuit(net, pairs, methods or None, truth=judged, **options)
        written = [
            circuit_report(found, out, heads=heads, prompts=prompts, by=exchanged, checked=checked)
        ]
        if save is not None:
            written.append(found.save(save.expanduser()))
    told(found, written)
    return found


def weights_of(model: str, weights: str | None) -> str | None:
    """The weights asked for; else those that the model's name means, its only ones, imagenet."""
    card = next((c for c in list_models(model) if c.name == model), None)
    if weights is not None or card is None:
        return weights
    only = next(iter(card.weights)) if len(card.weights) == 1 else None
    return card.default or only


def judged_by(truth: str) -> str | list[tuple[int, int]] | None:
    """`measured`, `ioi:sae`, heads as `0.2,1.3`, or none."""
    if truth == "none":
        return None
    if _HEADS.fullmatch(truth):
        pairs = (word.split(".") for word in truth.split(","))
        return [(int(layer), int(head)) for layer, head in pairs]
    return truth


def photo_pairs(model: nn.Module, photos: Photos, count: int) -> Pairs:
    """Photos of a class against photos of another one, as many of each."""
    if photos.good is None or photos.bad is None:
        raise OptionError("--pairs compares photos of two classes: name them by --good and --bad")
    good, bad = (class_index(model, _class(c)) for c in (photos.good, photos.bad))
    sides = [pictures([word]) for word in photos.sides]
    least = min(count, *map(len, sides))
    a, b = (preprocess(model, side[:least]) for side in sides)
    names = " against ".join(Path(word).name for word in photos.sides)
    return picture_pairs(a, b, good, bad, names)


def _class(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def told(found: Circuit, written: Sequence[Path]) -> None:
    """Print how good each method is, the first heads, and where the results lie."""
    console = console_for()
    console.print(_figures(found))
    console.print()
    console.print(_heads(found))
    console.print()
    for path in written:
        size = f": {path.stat().st_size / 1e6:.1f} MB" if path.is_file() else ""
        console.print(f"{path}{size}", soft_wrap=True)
    for note in found.notes:
        console_for(stderr=True).print(f"limelight: note: {note}", soft_wrap=True)


def _figures(found: Circuit) -> Any:
    if "ap" not in found.evaluation:
        return _unjudged(found)
    table = new_table(
        "method", "AP", "null", "AP - null", "AUC", "null", "precision at k", "Spearman", "seconds"
    )
    for row in found.evaluation.to_dict("records"):
        gain = "–"
        if _known(row.get("ap_null")):
            between = f"{three(row['ap_low'])} to {three(row['ap_high'])}"
            gain = f"{three(row['ap'] - row['ap_null'])} [{between}]"
        keys = ("auc", "auc_null", "precision_k", "spearman")
        cells = [_cell(row.get(key)) for key in ("ap", "ap_null")]
        rest = [_cell(row.get(key)) for key in keys]
        table.add_row(row["method"], *cells, gain, *rest, f"{row['seconds']:.3g}")
    return table


def _unjudged(found: Circuit) -> Any:
    table = new_table("method", "first heads", "seconds")
    for name, seconds in found.seconds.items():
        first = ", ".join(head_name(head) for head in found.top(5, name))
        table.add_row(name, first, f"{seconds:.3g}")
    return table


def _known(value: Any) -> bool:
    return value is not None and value == value


def _cell(value: Any) -> str:
    return three(value) if _known(value) else "–"


def _heads(found: Circuit) -> Any:
    first = found.score()
    table = new_table("head", next(iter(found.scores)), "q", "measured effect", "in the circuit")
    for name in found.top(_TOP):
        place = found.names.index(name)
        known = found.truth
        inside = "–" if known is None else ("yes" if known.inside[place] else "no")
        effects = None if known is None else known.effects
        values = (first.values, first.q, effects)
        table.add_row(head_name(name), *(_of(v, place) for v in values), inside)
    return table


def _of(values: torch.Tensor | None, place: int) -> str:
    return "–" if values is None else number(float(values[place]))

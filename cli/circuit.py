"""`limelight circuit`: which heads of a model do a task, on one page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..probe.errors import OptionError
from .options import Force
from .terminal import console_for, new_table, progress, say

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..methods.circuits import Circuit
    from ..methods.circuits.tasks import Pairs

EPILOG = (
    "\b\nExamples:\n  limelight circuit\n  limelight circuit smollm2_135m ioi -o ioi.html\n"
    "  limelight circuit smollm2_135m prompts.jsonl -m attribution -m code_attr --truth none\n"
    "  limelight circuit deit_tiny --pairs dogs/ cats/ --good 207 --bad 281"
)
_TOP = 10
_HEADS = re.compile(r"\d+\.\d+(,\d+\.\d+)*")


def circuit(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A name that `limelight models` lists, timm:NAME, torchvision:NAME, hf:NAME or "
            "hf:FOLDER, or module:function for anything that returns a torch.nn.Module.",
        ),
    ] = "induction_2l",
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK",
            help="ioi, greater_than, docstring, induction, with options as ioi:VARIANT, or a file "
            "of prompts (.jsonl).",
        ),
    ] = "induction",
    out: Annotated[Path, typer.Option("--out", "-o", help="The page.")] = Path("circuit.html"),
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "-m",
            metavar="NAME[:VARIANT][,OPTION=VALUE]",
            help="Repeatable; the first is verified. [default: the gradient scores, the published "
            "discrete autoencoder, and all controls]",
        ),
    ] = None,
    truth: Annotated[
        str,
        typer.Option(
            metavar="measured|NAME|HEADS|none",
            help="What rankings are judged by: exact patching, a published circuit (ioi:sae, ...), "
            "or heads as 0.2,1.3.",
        ),
    ] = "measured",
    count: Annotated[int, typer.Option(help="Pairs that are scored.")] = 64,
    truth_pairs: Annotated[int, typer.Option(help="More pairs, for the measured truth.")] = 16,
    checked: Annotated[
        int, typer.Option(help="Pairs that faithfulness is measured on; 0 for all.")
    ] = 8,
    by: Annotated[
        str,
        typer.Option(metavar="mean|zero|resample", help="What heads outside a circuit give there."),
    ] = "resample",
    heads: Annotated[int, typer.Option(help="Heads that get a section of their own.")] = 8,
    prompts: Annotated[int, typer.Option(help="Prompts whose attention is drawn.")] = 3,
    pairs: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="A B", help="Photos of two classes instead of a task: two folders."),
    ] = None,
    good: Annotated[str | None, typer.Option(help="The class of the photos A.")] = None,
    bad: Annotated[str | None, typer.Option(help="The class of the photos B.")] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            "-w",
            metavar="TAG|FILE|none",
            help="Published weights, a file, or random ones. [default: those that the name means]",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A hyper-parameter of the model; repeatable."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="[default: cuda where there is one, else cpu]")
    ] = None,
    batch: Annotated[int, typer.Option(help="Pairs at a time.")] = 16,
    seed: Annotated[int, typer.Option(help="For the task and for methods that draw.")] = 0,
    force: Force = False,
    save: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also all scores, as Parquet files.")
    ] = None,
) -> None:
    """Show which attention heads do a task, by many methods beside controls, on one HTML page."""
    _run(
        model,
        task,
        out,
        methods=method,
        truth=truth,
        photos=None if pairs is None else Photos(pairs, good, bad),
        weights=weights,
        settings=settings,
        device=device,
        save=save,
        force=force,
        by=by,
        heads=heads,
        prompts=prompts,
        checked=checked,
        count=count,
        truth_pairs=truth_pairs,
        seed=seed,
        batch=batch,
    )


@dataclass(frozen=True)
class Photos:
    """Photos of two classes instead of a task: two folders, files or patterns."""

    sides: tuple[str, str]
    good: str | None
    bad: str | None


def _run(
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
    force: bool,
    by: str,
    heads: int,
    prompts: int,
    checked: int,
    **options: Any,
) -> Circuit:
    """Score the heads of a model, write the page, print the figures."""
    from ..methods.circuits import circuit as scored
    from ..probe.attribution import convert
    from ..probe.results import replaceable
    from ..reports.circuit_page import check_sizes, circuit_report
    from .inputs import hyper, model_of, writable

    writable(out, "-o", (".html", ".htm"), force=force)
    if save is not None:
        for path in save.expanduser().glob("*.parquet"):
            replaceable(path, force)
    check_sizes(heads, prompts, checked)
    exchanged = convert("circuit", "--by", by, Literal["mean", "zero", "resample"])
    judged = judged_by(truth)
    with progress(f"loading {model}") as tell:
        net = model_of(model, weights, hyper(settings), device)
        tell(0, 1, task)
        pairs: Pairs | str = task if photos is None else photo_pairs(net, photos, options["count"])
        circuit = scored(net, pairs, methods or None, truth=judged, **options)
        shown: dict[str, Any] = {"heads": heads, "prompts": prompts, "checked": checked}
        written = [circuit_report(circuit, out, by=exchanged, force=force, **shown)]
        if save is not None:
            written.append(circuit.save(save.expanduser(), force=force))
    _print_summary(circuit, written)
    return circuit


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
    from ..methods.circuits.tasks import picture_pairs
    from ..models.inputs import class_index, preprocess
    from ..probe.targets import class_in
    from .inputs import pictures

    if photos.good is None or photos.bad is None:
        raise OptionError("--pairs compares photos of two classes: name them by --good and --bad")
    good, bad = (class_index(model, class_in(c)) for c in (photos.good, photos.bad))
    sides = [pictures([word]) for word in photos.sides]
    least = min(count, *map(len, sides))
    a, b = (preprocess(model, side[:least]) for side in sides)
    names = " against ".join(Path(word).name for word in photos.sides)
    return picture_pairs(a, b, good, bad, names)


def _print_summary(circuit: Circuit, written: Sequence[Path]) -> None:
    """Print how good each method is, the first heads, and where the results lie."""
    console = console_for()
    console.print(_figures(circuit))
    console.print()
    console.print(_heads(circuit))
    console.print()
    for path in written:
        size = f": {path.stat().st_size / 1e6:.1f} MB" if path.is_file() else ""
        console.print(f"{path}{size}", soft_wrap=True)
    for note in circuit.notes:
        say(f"note: {note}")


def _figures(circuit: Circuit) -> Any:
    from ..reports.html import three_digits

    if "ap" not in circuit.evaluation:
        return _unjudged(circuit)
    table = new_table(
        "method", "AP", "null", "AP - null", "AUC", "null", "precision at k", "Spearman", "seconds"
    )
    for row in circuit.evaluation.to_dict("records"):
        gain = "–"
        if _defined(row.get("ap_null")):
            between = f"{three_digits(row['ap_low'])} to {three_digits(row['ap_high'])}"
            gain = f"{three_digits(row['ap'] - row['ap_null'])} [{between}]"
        keys = ("auc", "auc_null", "precision_k", "spearman")
        cells = [_cell(row.get(key)) for key in ("ap", "ap_null")]
        rest = [_cell(row.get(key)) for key in keys]
        table.add_row(row["method"], *cells, gain, *rest, f"{row['seconds']:.3g}")
    return table


def _unjudged(circuit: Circuit) -> Any:
    from ..reports.circuit_page import head_name

    table = new_table("method", "first heads", "seconds")
    for name, seconds in circuit.seconds.items():
        first = ", ".join(head_name(head) for head in circuit.top(5, name))
        table.add_row(name, first, f"{seconds:.3g}")
    return table


def _defined(value: Any) -> bool:
    return value is not None and value == value


def _cell(value: Any) -> str:
    from ..reports.html import three_digits

    return three_digits(value) if _defined(value) else "–"


def _heads(circuit: Circuit) -> Any:
    from ..reports.circuit_page import head_name

    first = circuit.score()
    table = new_table("head", next(iter(circuit.scores)), "q", "measured effect", "in the circuit")
    for name in circuit.top(_TOP):
        place = circuit.names.index(name)
        truth = circuit.truth
        inside = "–" if truth is None else ("yes" if truth.inside[place] else "no")
        effects = None if truth is None else truth.effects
        values = (first.values, first.q, effects)
        table.add_row(head_name(name), *(_of(v, place) for v in values), inside)
    return table


def _of(values: torch.Tensor | None, place: int) -> str:
    from ..reports.html import significant

    return "–" if values is None else significant(float(values[place]))

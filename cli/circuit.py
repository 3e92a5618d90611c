"""`limelight circuit`: which heads of a model do a task, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EPILOG = (
    "\b\nExamples:\n  limelight circuit\n  limelight circuit smollm2_135m ioi -o ioi.html\n"
    "  limelight circuit smollm2_135m prompts.jsonl -m attribution -m code_attr --truth none\n"
    "  limelight circuit deit_tiny --pairs dogs/ cats/ --good 207 --bad 281"
)


def circuit(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A name that `limelight models` lists, timm:NAME, torchvision:NAME, or "
            "module:function for anything that returns a torch.nn.Module.",
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
    save: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also all scores, as Parquet files.")
    ] = None,
) -> None:
    """Show which attention heads do a task, by many methods beside controls, on one HTML page."""
    from .circuit_choices import Photos, run_circuit

    run_circuit(
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
        by=by,
        heads=heads,
        prompts=prompts,
        checked=checked,
        count=count,
        truth_pairs=truth_pairs,
        seed=seed,
        batch=batch,
    )

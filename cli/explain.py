"""`limelight explain`: what a model looks at in images, or other samples, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .options import (
    AxesWords,
    Device,
    Force,
    Inputs,
    Interpolation,
    Labels,
    Mean,
    Methods,
    Model,
    Resize,
    Root,
    Settings,
    Sites,
    Size,
    Std,
    Targets,
    Weights,
)
from .terminal import PARTLY, console_for, new_table, progress, say

if TYPE_CHECKING:
    from rich.table import Table

    from ..reports.explanation import Explanation

EPILOG = (
    "\b\nExamples:\n  limelight explain efficientnet_lite0 dog.jpg -o dog.html\n"
    '  limelight explain resnet50 "photos/*.jpg" -m normgrad:scaling -m smoothgrad,n=32 \\\n'
    '    --site "layer?" --target top:3 --target "margin:daisy,bee" --combine product\n'
    "  limelight explain mine:net x.png --size 32 --mean 0.5 --std 0.5 --labels names.txt\n"
    "  limelight explain mine:net patients.csv --input features:age,bmi -m input_x_gradient\n"
    '  limelight explain mine:net beat.npy --input series --axes input="b c t" -m gradcam'
)
_EACH_UP_TO = 20  # pictures with all five guesses on the terminal; beyond, the best one each


def explain(
    model: Model,
    image: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE",
            help="Files, folders and quoted wildcards; or a listing (.csv, .tsv, .parquet, "
            ".jsonl), arrays (.npy) and volumes (.nii, .dcm).",
        ),
    ],
    method: Methods = None,
    site: Sites = None,
    target: Targets = None,
    weights: Weights = None,
    settings: Settings = None,
    labels: Labels = None,
    size: Size = None,
    resize: Resize = None,
    interpolation: Interpolation = None,
    mean: Mean = None,
    std: Std = None,
    inputs: Inputs = None,
    axes: AxesWords = None,
    root: Root = None,
    combine: Annotated[
        str | None,
        typer.Option(metavar="product|sum", help="Also one map per method over all its sites."),
    ] = None,
    ledger: Annotated[
        bool, typer.Option("--ledger", help="Also where the relevance of the first image goes.")
    ] = False,
    mixer: Annotated[
        bool, typer.Option("--mixer", help="Also what the token mixer does on the first image.")
    ] = False,
    device: Device = None,
    batch: Annotated[str, typer.Option(help="Images at a time, or auto.")] = "auto",
    seed: Annotated[int, typer.Option(help="For methods that draw random numbers.")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page.")] = Path("report.html"),
    maps: Annotated[
        Path | None, typer.Option(help="Also the maps: .parquet, .safetensors or a .png sheet.")
    ] = None,
    force: Force = False,
) -> int:
    """Show what a model looks at in images or other samples, on one HTML page."""
    from ..models.inputs import class_names
    from ..probe.attribution.options import convert
    from ..probe.attribution.registry import use
    from ..probe.targets.parse import target_in
    from ..reports.explanation import explain as run
    from .inputs import (
        axes_in,
        hyper,
        model_of,
        preparing,
        sample_files,
        writable,
    )

    writable(out, "-o", (".html", ".htm"), force=force)
    if maps is not None:
        writable(maps, "--maps", (".parquet", ".safetensors", ".png"), force=force)

    how = combine and convert("explain", "--combine", combine, Literal["product", "sum"])
    wanted = target or ("top",)
    what = [target_in(t) for t in wanted]  # what is not understood is refused at once
    bound = [use(m) for m in method or ("gradcam", "normgrad")]
    many = int(batch) if batch.isdecimal() else batch
    names = labels if labels is None else class_names(labels)
    prepare = preparing(size, resize, interpolation, mean, std)
    files = sample_files(image, inputs, root)
    known = axes_in(axes)
    with progress(f"loading {model}") as tell:
        net = model_of(model, weights, hyper(settings), device)
        options: dict[str, Any] = {"combine": how, "batch": many, "seed": seed, "progress": tell}
        options |= {"ledger": ledger, "mixer": mixer, "labels": names, **prepare}
        options |= {"axes": known or None}
        explanation = run(net, files, bound, sites=site, target=what, **options)
        written = [explanation.save(out, force=force)]
        if maps is not None:
            written.append(explanation.maps.save(maps, force=force))
    print_summary(explanation, written)
    for caution in explanation.cautions:
        say(f"caution: {caution}")
    for name, reason in explanation.skipped:
        say(reason if name in reason else f"{name}: {reason}")
    return PARTLY if explanation.skipped else 0


def print_summary(explanation: Explanation, written: Sequence[Path]) -> None:
    """Print the likeliest classes and where the results lie."""
    console = console_for()
    table = _guesses(explanation)
    if table.row_count:
        console.print(table)
    for path in written:
        size = path.stat().st_size / 1e6
        console.print(f"{path}: {len(explanation.maps)} maps, {size:.1f} MB", soft_wrap=True)


def _guesses(explanation: Explanation) -> Table:
    many = len(explanation.top) > _EACH_UP_TO
    only_photos = {photo.sample for photo in explanation.photos} >= explanation.top.keys()
    table = new_table("image" if only_photos else "sample", "class", "number", "probability")
    for sample, guesses in explanation.top.items():
        for rank, guess in enumerate(guesses[: 1 if many else None]):
            share = f"{guess.probability:.1%}"
            table.add_row("" if rank else sample, guess.label, str(guess.index), share)
    return table

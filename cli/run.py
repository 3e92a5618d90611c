"""`limelight run`, `score` and `report`: maps of a data set, their scores, their page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import (
    AxesWords,
    Device,
    Folder,
    Force,
    Inputs,
    Interpolation,
    Labels,
    Mean,
    Methods,
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
    import pandas
    from torch import nn

    from ..reports.runs import Run

RUN_EPILOG = (
    "\b\nExamples:\n  limelight run plan.toml --out run/\n"
    "  limelight run efficientnet_lite0 photos/ --out run/ -m gradcam -m normgrad \\\n"
    "    --site hidden --target top --target least\n"
    '  limelight run mine:net patients.csv --input "features:*" -m integrated_gradients -t label\n'
    '  limelight run mine:net beats.csv --input series:ecg --axes input="b c t"'
)
SCORE_EPILOG = (
    "\b\nExamples:\n  limelight score run/ --metric pointing --metric class_sensitivity\n"
    "  limelight score run/ --metric pointing,tolerance=0 --data instances.json\n"
    "  limelight score run/ --metric deletion --model efficientnet_lite0"
)
REPORT_EPILOG = (
    "\b\nExamples:\n  limelight report run/ -o report.html\n"
    "  limelight report trained/ --against initial/ -o heads.html"
)
_NAMED = 20
_MODEL = ("model", "weights", "hyper", "device", "data", "root", "inputs", "methods")


def run(
    what: Annotated[
        str, typer.Argument(metavar="PLAN|MODEL", help="A plan.toml, or a model as elsewhere.")
    ],
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help="A folder of pictures or in VOC's layout, a listing (.csv, .tsv, .parquet, "
            ".jsonl), COCO's .json, or a Hugging Face data set on disk.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The run's folder.")] = Path("run"),
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
    root: Root = None,
    inputs: Inputs = None,
    axes: AxesWords = None,
    shard: Annotated[int | None, typer.Option(help="Samples in a part. [default: 32]")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many samples.")] = None,
    seed: Annotated[int | None, typer.Option(help="For random methods. [default: 0]")] = None,
    device: Device = None,
    dtype: Annotated[str | None, typer.Option(help="[default: float32]")] = None,
    batch: Annotated[str | None, typer.Option(help="Images at a time. [default: auto]")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that decode pictures. [default: 1]")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(metavar="local|ray", help="Where it runs. [default: local]")
    ] = None,
    address: Annotated[str | None, typer.Option(help="A Ray cluster, host:port or auto.")] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Let the plan call the module:function that it names.")
    ] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Compute broken parts anew, and write a lost plan.json."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Begin also in a folder that holds other files.")
    ] = False,
) -> int:
    """Compute maps of a whole data set; run again, it goes on where it stopped.

    Targets may also be least, and label, the class that each sample carries. The keys of a plan
    are these options by their Python names: model, weights, data, root, inputs, methods, sites,
    target, shard, seed, limit, labels, size, resize, interpolation, mean, std, device, dtype,
    batch, workers, engine, address, and the tables hyper and axes.
    """
    from .inputs import axes_in, hyper, preparing

    finished = _compute(what, out, {
        "data": data, "methods": method, "sites": site, "target": target, "weights": weights,
        "hyper": hyper(settings), "root": root, "shard": shard, "limit": limit, "seed": seed,
        "device": device, "dtype": dtype, "batch": batch, "workers": workers, "engine": engine,
        "address": address, "labels": labels, "inputs": inputs, "axes": axes_in(axes) or None,
        **preparing(size, resize, interpolation, mean, std),
    }, trust=trust, repair=repair, force=force)  # fmt: skip
    failed = list(print_run(finished))
    for text in failed:
        say(text)
    return PARTLY if failed else 0


def score(
    folder: Folder,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="NAME[,OPTION=VALUE]", help="Repeatable."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Where the boxes or masks are. [default: the data of the run]"),
    ] = None,
    root: Root = None,
    model: Annotated[
        str | None, typer.Option(help="The run's model, for scores that ask it: deletion, ...")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Its weights. [default: imagenet]")] = None,
    settings: Settings = None,
) -> int:
    """Score the maps of a run: on things in the pictures, between classes, by perturbation."""
    from .inputs import hyper, model_of

    net = None if model is None else model_of(model, weights, hyper(settings))
    return PARTLY if _print_scores(folder, metric or (), data, root, net) else 0


def report(
    folder: Folder,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page.")] = Path("report.html"),
    against: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="A run with other weights, to set its heads beside."),
    ] = None,
    force: Force = False,
) -> None:
    """Show a run and its scores on one HTML page."""
    from .inputs import writable

    writable(out, "-o", (".html", ".htm"), force=force)
    _write_page(folder, out, against)


def _compute(
    what: str, out: Path, options: dict[str, Any], *, trust: bool, repair: bool, force: bool
) -> Run:
    """Compute what a plan file, or a model and options, ask for."""
    from ..reports.datasets import samples
    from ..reports.runs import merged, read_plan
    from ..reports.runs import run as run_all

    written = what.lower().endswith(".toml")
    plan = read_plan(Path(what).expanduser()) if written else {"model": what}
    if written:
        _check_code(what, str(plan.get("model", "")), trust)
    asked = merged(plan, options)
    batch = str(asked.pop("batch", "auto"))
    rest = {name: value for name, value in asked.items() if name not in _MODEL}
    with progress(f"loading {asked['model']}", memory=True) as tell:
        data = samples(asked["data"], root=asked.get("root"), inputs=asked.get("inputs"))
        net = _net(asked)
        methods = asked.get("methods") or ["gradcam", "normgrad"]
        size = int(batch) if batch.isdecimal() else batch
        return run_all(
            out, net, data, methods, batch=size, progress=tell, repair=repair, force=force, **rest
        )


def _check_code(plan: str, model: str, trust: bool) -> None:
    """Raise where a plan, which may come from anywhere, would call a function."""
    from ..models.adapters.load import LIBRARIES, check_builder
    from ..probe.errors import OptionError

    if ":" not in model or model.partition(":")[0] in LIBRARIES:
        return
    if not trust:
        raise OptionError(
            f"plan {plan!r} names the function {model!r} as its model, and plans run no code: look "
            "at the function, then give --trust"
        )
    check_builder(model)


def _net(asked: dict[str, Any]) -> nn.Module:
    """The model; random weights are those of the seed, so that their run can go on."""
    import torch

    from ..probe.engine import check_seed
    from .inputs import model_of

    seed = asked.get("seed", 0)
    check_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model_of(asked["model"], asked.get("weights"), asked["hyper"], asked.get("device"))


def print_run(finished: Run) -> Iterator[str]:
    """Print what a run holds; yield what failed."""
    from ..probe.results import cautions_in

    table = finished.table(["sample", "error"])
    failed = table[table["error"].notna()]
    maps = len(table) - len(failed)
    count = table["sample"].nunique()
    console_for().print(f"{finished.folder}: {maps} maps of {count} samples", soft_wrap=True)
    for caution in cautions_in(finished.plan.told.get("notes", ())):
        say(f"caution: {caution}")
    for row in failed.head(_NAMED).itertuples():
        yield f"{row.sample}: {row.error}"
    if len(failed) > _NAMED:
        yield f"{len(failed) - _NAMED} more samples failed: `limelight report` names them"


def _print_scores(
    folder: Path,
    metrics: Sequence[str],
    data: str | None,
    root: str | None,
    net: nn.Module | None = None,
) -> bool:
    """Score a run and print the means; whether a metric cannot be had at all."""
    from ..reports.datasets import samples
    from ..reports.scoring import score as scores_of
    from ..reports.scoring.table import FILE, summary

    truth = None if data is None else samples(data, root=root)
    with progress("scoring", memory=True) as tell:
        scores = scores_of(folder, list(metrics), data=truth, model=net, progress=tell)
    means = summary(scores)
    table = new_table("metric", "method", "site", "target", "mean", "95 %", "samples", "left out")
    for row in means[means["count"] > 0].itertuples():
        between = f"{row.low:.3f} .. {row.high:.3f}"
        names = (row.metric, row.method, row.site, row.asked)
        table.add_row(*names, f"{row.mean:.3f}", between, str(row.count), str(row.left_out))
    console = console_for()
    console.print(table)
    console.print(f"{folder / FILE}: {len(scores)} scores", soft_wrap=True)
    _say_empty(means, scores)
    return bool((means.groupby("metric")["count"].sum() == 0).any())


def _say_empty(means: pandas.DataFrame, scores: pandas.DataFrame) -> None:
    """Say which metrics have no score for a target, and the reason that most maps have."""
    empty = means[means["count"] == 0]
    for (metric, asked), _ in empty.groupby(["metric", "asked"], sort=False):
        notes = scores[(scores["metric"] == metric) & (scores["asked"] == asked)]["note"]
        say(f"{metric} is defined for no map of the target {asked}: {notes.mode().iloc[0]}")


def _write_page(folder: Path, out: Path, against: Path | None = None) -> None:
    """Write the page of a run and say where it lies."""
    from ..probe.results import write
    from ..reports.dataset_page.page import render_run
    from ..reports.runs import Run

    other = None if against is None else Run(against.expanduser())
    path = write(out.expanduser(), render_run(Run(folder), other).encode("utf-8"))
    console_for().print(f"{path}: {path.stat().st_size / 1e6:.1f} MB", soft_wrap=True)

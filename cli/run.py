"""The work behind `limelight run`, `limelight score` and `limelight report`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas
import torch
from torch import nn

from ..probe.results import write
from ..reports.datasets import samples
from ..reports.runs import Run, merged, read_plan, run
from ..reports.scoring import score
from ..reports.scoring import table as score_table
from .inputs import model_of
from .terminal import console_for, new_table, progress

_NAMED = 20
_MODEL = ("model", "weights", "hyper", "device", "data", "root", "methods")


def run_plan(what: str, out: Path, options: dict[str, Any]) -> Run:
    """Compute what a plan file, or a model and options, ask for."""
    written = what.lower().endswith(".toml")
    plan = read_plan(Path(what).expanduser()) if written else {"model": what}
    asked = merged(plan, options)
    batch = str(asked.pop("batch", "auto"))
    rest = {name: value for name, value in asked.items() if name not in _MODEL}
    with progress(f"loading {asked['model']}", memory=True) as tell:
        data = samples(asked["data"], root=asked.get("root"))
        net = _net(asked)
        methods = asked.get("methods") or ["gradcam", "normgrad"]
        size = int(batch) if batch.isdecimal() else batch
        return run(out, net, data, methods, batch=size, progress=tell, **rest)


def _net(asked: dict[str, Any]) -> nn.Module:
    """The model; random weights are those of the seed, so that their run can go on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(asked.get("seed", 0))
        return model_of(asked["model"], asked.get("weights"), asked["hyper"], asked.get("device"))


def say_run(found: Run) -> Iterator[str]:
    """Print what a run holds; yield what failed."""
    table = found.table(["sample", "error"])
    failed = table[table["error"].notna()]
    maps = len(table) - len(failed)
    count = table["sample"].nunique()
    console_for().print(f"{found.folder}: {maps} maps of {count} samples", soft_wrap=True)
    for row in failed.head(_NAMED).itertuples():
        yield f"{row.sample}: {row.error}"
    if len(failed) > _NAMED:
        yield f"{len(failed) - _NAMED} more samples failed: `limelight report` names them"


def score_run(
    folder: Path,
    metrics: Sequence[str],
    data: str | None,
    root: str | None,
    net: nn.Module | None = None,
) -> None:
    """Score a run and print the means."""
    truth = None if data is None else samples(data, root=root)
    with progress("scoring", memory=True) as tell:
        found = score(folder, list(metrics), data=truth, model=net, progress=tell)
    means = score_table.summary(found)
    table = new_table("metric", "method", "site", "target", "mean", "95 %", "samples", "left out")
    for row in means[means["count"] > 0].itertuples():
        between = f"{row.low:.3f} .. {row.high:.3f}"
        names = (row.metric, row.method, row.site, row.asked)
        table.add_row(*names, f"{row.mean:.3f}", between, str(row.count), str(row.left_out))
    console = console_for()
    console.print(table)
    console.print(f"{folder / score_table.FILE}: {len(found)} scores", soft_wrap=True)
    _say_empty(means)


def _say_empty(means: pandas.DataFrame) -> None:
    empty = means[means["count"] == 0]
    for (metric, asked), _ in empty.groupby(["metric", "asked"], sort=False):
        text = f"{metric} is defined for no map of the target {asked}"
        console_for(stderr=True).print(text, soft_wrap=True)


def report_run(folder: Path, out: Path, against: Path | None = None) -> None:
    """Write the page of a run and say where it lies."""
    from ..reports.dataset_page.page import render_run

    other = None if against is None else Run(against.expanduser())
    path = write(out.expanduser(), render_run(Run(folder), other).encode("utf-8"))
    console_for().print(f"{path}: {path.stat().st_size / 1e6:.1f} MB", soft_wrap=True)

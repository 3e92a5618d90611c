"""`limelight sites`: where a model can be read."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from ..probe.errors import ImageError, LimelightError, ModelError
from .options import Model, Settings
from .terminal import console_for, new_table, say

if TYPE_CHECKING:
    from ..probe.probe import Probe

EPILOG = (
    '\b\nExamples:\n  limelight sites resnet18\n  limelight sites vit_b_16 "**.*norm*"\n'
    "  limelight sites torchvision:resnet18 layer1.0 --ops"
)


def sites(
    model: Model,
    pattern: Annotated[
        str | None,
        typer.Argument(
            metavar="PATTERN",
            help="* stays within a name, ** crosses dots. [default: hidden and heads]",
        ),
    ] = None,
    ops: Annotated[bool, typer.Option("--ops", help="Also the operations inside.")] = False,
    settings: Settings = None,
) -> None:
    """List where a model can be read.

    Axes and shapes are those of one zero image of the model's size.
    """
    from ..models.inputs import fitted, preprocessing_of
    from ..probe.probe import Probe
    from ..probe.sites.site import parse
    from .inputs import hyper, model_of

    net = model_of(model, "none", hyper(settings))
    try:
        preprocessing = fitted(net)
    except ImageError:
        preprocessing = preprocessing_of(net)  # the run below says what the model does not take
    with Probe(net, axes={"input": "b c y x"}) as probe:
        _watch(probe, pattern, ops)
        _run_zero(probe, model, (1, len(preprocessing.mean), *preprocessing.size))
    words = {w: [parse(s) for s in _word(probe, w)] for w in ("hidden", "heads", "last")}
    table = new_table("site", "axes", "shape", "part of")
    for site, value in probe.trace.items():
        named = [w for w, patterns in words.items() if any(p.matches(site) for p in patterns)]
        shape = " x ".join(map(str, value.act.shape)) or "1"
        table.add_row(str(site), value.axes, shape, ", ".join(named))
    console_for().print(table)
    for note in (*probe.adapter.notes, *preprocessing.notes):
        say(f"note: {note}")


def _word(probe: Probe, word: str) -> tuple[str, ...]:
    """The sites that a word means in this model, none where it has none."""
    adapter = probe.adapter
    if word == "heads":
        return tuple(f"{path}:heads" for path in adapter.heads)
    return adapter.hidden if word == "hidden" else adapter.final or adapter.hidden[-1:]


def _watch(probe: Probe, pattern: str | None, ops: bool) -> None:
    usual = [w for w in ("hidden", "heads") if _word(probe, w)] or ["**"]
    patterns = [p for a in ([pattern] if pattern else usual) for p in probe.resolve(a)]
    probe.watch(*patterns)
    if ops:
        probe.watch(*(replace(p, port="**") for p in patterns))


def _run_zero(probe: Probe, name: str, shape: tuple[int, ...]) -> None:
    import torch

    weight = next((p for p in probe.model.parameters() if p.is_floating_point()), torch.empty(0))
    try:
        probe(torch.zeros(shape).to(weight))
    except LimelightError:
        raise
    except Exception as error:
        size = " x ".join(map(str, shape))
        raise ModelError(f"model {name!r} does not run on an image {size}: {error}") from error

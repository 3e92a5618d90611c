"""In which order a model takes the dimensions of its inputs: said, or read off it, not guessed."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from ...models.inputs import input_for
from ...probe.engine import Batch, inputs
from ...probe.errors import LimelightError, OptionError, SiteError
from ...probe.probe import Probe
from .signals import PLACES, Signal

REFUSALS = (RuntimeError, ValueError, IndexError, TypeError, AssertionError)
_LONG = 120


def axes_of(model: nn.Module, batch: Tensor) -> str:
    """What the dimensions of an input mean, as the ops tell that read it. Raises SiteError.

    Two samples run: of one, no op could tell that its first dimension is no batch.
    """
    two = batch[:2] if len(batch) > 1 else torch.cat([batch, batch])
    with Probe(model) as probe:
        probe.watch("input")
        probe(input_for(model, two))
        probe.input_layout()
        names = probe.trace["input"].axes
    if names == "b":
        raise SiteError(
            f"an input of shape {tuple(batch.shape)} has no dimension beside the batch: give a "
            "batch of samples"
        )
    return names


def orders(
    model: nn.Module,
    signals: Mapping[str, Signal],
    others: Mapping[str, Tensor],
    said: Mapping[str, str],
) -> dict[str, str]:
    """The axes of a batch of each signal, by the model's arguments.

    signals  those of one sample
    others   the model's other inputs for that sample, without a batch: pictures, token ids
    said     axes that are known, by argument
    Where a file leaves several orders, the model runs on each; the one counts that its ops agree
    with. Raises SiteError where no op tells, OptionError where none fits.
    """
    known = {argument: said[argument] for argument in signals if argument in said}
    for argument, axes in known.items():
        _check(signals[argument], axes)
    choices = {a: _choices(s) for a, s in signals.items() if a not in known}
    if all(len(c) == 1 and c[0] for c in choices.values()):
        return {**known, **{argument: c[0] for argument, c in choices.items()}}
    found, told, refused = [], False, ""
    for chosen in product(*choices.values()):
        asked = {**known, **dict(zip(choices, chosen, strict=True))}
        try:
            read = _read(model, signals, others, asked, list(choices))
        except SiteError:
            continue
        except (LimelightError, *REFUSALS) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            told, refused = True, refused or " ".join(str(error).split())[:_LONG]
            continue
        told = True
        agreed = {a: _agreed(signals[a], asked[a], read[a]) for a in choices}
        if all(agreed.values()):
            found.append({**known, **agreed})
    if len(found) == 1:
        return found[0]
    raise _undecided(model, {a: signals[a] for a in choices}, refused if told else "")


def arranged(signal: Signal, axes: str) -> Tensor:
    """A sample as the model takes it, axes as those of a batch; one channel comes or goes.

    Raises LimelightError for several channels where the model takes none, and for a sample of
    other dimensions.
    """
    wanted = [name for name in axes.split() if name != "b"]
    values, own = signal.values, signal.axes.split()
    if not own:
        if values.ndim != len(wanted):
            raise LimelightError(
                f"a sample of shape {tuple(values.shape)} is none over {axes!r} without the batch"
            )
        return values
    own = _renamed(own, [name for name in wanted if name != "c"])
    if "c" in wanted and "c" not in own:
        values, own = values[None], ["c", *own]
    if "c" in own and "c" not in wanted:
        if (count := values.shape[own.index("c")]) != 1:
            raise LimelightError(f"a {signal.kind} has {count} channels, but {axes!r} has none")
        values = values.squeeze(own.index("c"))
        own.remove("c")
    return values.permute([own.index(name) for name in wanted]).contiguous()


def _renamed(own: list[str], places: list[str]) -> list[str]:
    """A sample's axes in the words of the model: places by name, or in their order."""
    if sorted(places) == sorted(name for name in own if name != "c"):
        return own
    names = iter(places)
    return [name if name == "c" else next(names, name) for name in own]


def _choices(signal: Signal) -> list[str]:
    """The orders in which a batch of such samples may be taken; "" as it lies in its file."""
    own = signal.axes.split()
    if not own:
        return [""]
    places = PLACES[signal.kind]
    if not places:
        return ["b c"]
    if signal.kind == "mask":
        return [f"b c {places}"]
    without = [] if "c" in own else [f"b {places}"]
    return [f"b c {places}", f"b {places} c", *without]


def _check(signal: Signal, axes: str) -> None:
    """Raise OptionError for axes that were said and are none of such samples."""
    words = axes.split()
    wanted = "c" if signal.kind == "features" else PLACES.get(signal.kind)
    held = len([n for n in words if n not in ("b", "c")]) if wanted != "c" else words.count("c")
    once = "b" in words and len(set(words)) == len(words)
    if not once or (wanted is not None and held != len(wanted.split())):
        usual = "b c" if wanted == "c" else f"b c {wanted or 't'}"
        raise OptionError(
            f"axes {axes!r} were said for a {signal.kind}: name the batch b and each dimension "
            f"once, as in {usual!r}"
        )


def _read(
    model: nn.Module,
    signals: Mapping[str, Signal],
    others: Mapping[str, Tensor],
    asked: Mapping[str, str],
    open_ones: list[str],
) -> dict[str, str]:
    """What the ops say of a batch of one sample twice, in the orders that are asked about."""
    tensors = {argument: torch.stack([x, x]) for argument, x in others.items()}
    for argument, signal in signals.items():
        axes = asked[argument]
        sample = arranged(signal, axes) if axes else signal.values
        tensors[argument] = torch.stack([sample, sample], axes.split().index("b") if axes else 0)
    batch = batch_of(model, tensors)
    sites = {a: "input" if a == batch.explained else f"input.{a}" for a in open_ones}
    with Probe(model) as probe:
        probe.watch(*sites.values())
        probe(*batch.args, **batch.kwargs)
        for argument, site in sites.items():
            if argument == batch.explained:
                probe.input_layout()
            else:
                probe.layout(probe.trace[site])
        return {argument: probe.trace[site].axes for argument, site in sites.items()}


def batch_of(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    axes: Mapping[str, str] | None = None,
    fixed: tuple[str, ...] = (),
    explained: str | None = None,
) -> Batch:
    """Tensors by the model's arguments, positions and keywords, as a batch on its device."""
    ready = {argument: input_for(model, x) for argument, x in tensors.items()}
    placed = sorted((a for a in ready if a.isdecimal()), key=int)
    named: dict[str, Any] = {a: x for a, x in ready.items() if not a.isdecimal()}
    said = {a: words for a, words in (axes or {}).items() if a in ready}
    arguments = (ready[a] for a in placed)
    return inputs(*arguments, fixed=fixed, explained=explained, axes=said, **named)


def _agreed(signal: Signal, asked: str, read: str) -> str:
    """The order that was tried, if the ops say the same of it; "" if they do not."""
    said = read.split()
    places = [i for i, name in enumerate(said) if name not in ("b", "c")]
    if not asked:
        names = PLACES.get(signal.kind, "").split()
        if signal.kind == "array":
            return read
        if len(places) != len(names):
            return ""
        renamed = dict(zip(places, names, strict=True))
        return " ".join(renamed.get(i, name) for i, name in enumerate(said))
    tried = asked.split()
    same = len(tried) == len(said) and all(
        a == b or {a, b}.isdisjoint(("b", "c")) for a, b in zip(tried, said, strict=True)
    )
    return asked if same else ""


def _undecided(model: nn.Module, open_ones: Mapping[str, Signal], refused: str) -> LimelightError:
    name = type(model).__name__
    shown = ", ".join(
        f"{signal.kind} {tuple(signal.values.shape)}" + f" ({signal.axes})" * bool(signal.axes)
        for signal in open_ones.values()
    )
    usual = {_site(a): f"b c {PLACES.get(s.kind, 't')}" for a, s in open_ones.items()}
    words = " ".join(f'--axes {site}="{axes}"' for site, axes in usual.items())
    say = f"say which dimension is what, as in axes={usual} or {words}"
    if refused:
        return OptionError(f"{name} takes a {shown} in no known order ({refused}): {say}")
    return SiteError(f"no op of {name} tells in which order it takes a {shown}: {say}")


def _site(argument: str) -> str:
    return "input" if argument == "0" else f"input.{argument}"

"""How a model's inputs are made of a data set's samples: what was said, then what one tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import nn

from ...models.inputs import Preprocessing, PreprocessingOptions, fitted, preprocessing_of
from ...probe.errors import ImageError, LimelightError, ModelError, OptionError
from ...probe.sites import positions, tokenizer_of
from .orders import batch_of, orders
from .parts import Parts
from .preparation import PICTURE, Preparation, is_ready, listed
from .samples import Samples
from .signals import Signal
from .volumes import PackageError

_TRIED = 100
_PHOTOS_ONLY = ("size", "resize", "interpolation", "transform")


def preparation(
    model: nn.Module,
    samples: Samples,
    options: PreprocessingOptions,
    axes: Mapping[str, str] | None = None,
) -> Preparation:
    """How a model's inputs are made of the samples of a data set, as the first one tells.

    options  of photos; mean and std also of numbers
    axes     what was said of dimensions: `{"input": "b c t", "layer": "b c t"}`
    Raises OptionError, SiteError, ImageError; PackageError where what reads the samples is missing;
    LimelightError where no sample can be had.
    """
    said, items = dict(axes or {}), _opened(samples)
    first = next(items, None)
    if isinstance(first, Parts):
        made = _without_orders(model, first, options, said)
        return _in_order(model, made, chain([first], items))
    inputs = {"0": said.pop("input")} if "input" in said else {}
    try:
        photos = fitted(model, options)
    except ImageError:
        if options.said or not is_ready(first):
            raise
        photos = preprocessing_of(model)  # inputs in the data need not be pictures
    if is_ready(first) or photos.transform is not None:
        return Preparation(photos, inputs, said, notes=photos.notes)
    if inputs.setdefault("0", PICTURE) != PICTURE:
        raise OptionError(
            f"photos are prepared as {PICTURE!r}, but axes={axes!r} were said: say inputs= for "
            "samples that are no photos"
        )
    return Preparation(photos, inputs, said, notes=photos.notes)


def _opened(samples: Samples) -> Iterator[Any]:
    """What the first samples hold; those that cannot be opened become rows of a run that say why.

    Raises LimelightError where none of many can be.
    """
    reasons: list[Exception] = []
    for place, row in enumerate(samples.rows[:_TRIED]):
        try:
            item, _ = samples.open(place, row)
        except PackageError:
            raise
        except Exception as error:
            reasons.append(error)
        else:
            yield item
    if len(reasons) == min(len(samples), _TRIED) and isinstance(reasons[0], LimelightError):
        raise LimelightError(f"none of the first samples can be had: {reasons[0]}")


def _without_orders(
    model: nn.Module, first: Parts, options: PreprocessingOptions, said: dict[str, str]
) -> Preparation:
    """All but the orders of dimensions that nobody said; what was said of inputs leaves `said`."""
    kinds = {part.argument: part.kind for part in first.parts}
    pictured = "picture" in kinds.values()
    if not pictured and (odd := [n for n in _PHOTOS_ONLY if n in options.said]):
        raise OptionError(
            f"{odd[0]}= prepares photos, but the samples are {listed(kinds.values())}"
        )
    fixed = tuple(a for a, kind in kinds.items() if kind == "mask")
    explained = _explained(model, kinds, fixed)
    known = _by_argument(said, kinds, explained)  # token ids need no axes: their embedding has some
    pictures = {a: PICTURE for a, kind in kinds.items() if kind in ("picture", "mask")}
    mean, std = ((), ()) if pictured else (options.mean or (), options.std or ())
    return Preparation(
        fitted(model, options, trial=len(kinds) == 1) if pictured else None,
        pictures | known,
        said,
        kinds,
        fixed,
        explained,
        tokenizer=_tokenizer(model) if "sentence" in kinds.values() else None,
        mean=mean,  # type: ignore[arg-type]  # tuples, once options are made
        longest=positions(model),
        std=std,  # type: ignore[arg-type]
    )


def _in_order(model: nn.Module, made: Preparation, items: Iterator[Any]) -> Preparation:
    """The orders that the model's ops tell, on the first sample that can be read whole."""
    reason: LimelightError | None = None
    for item in (one for one in items if isinstance(one, Parts)):
        signals = {p.argument: p.content for p in item.parts if isinstance(p.content, Signal)}
        rest = tuple(part for part in item.parts if part.argument not in signals)
        try:
            others = made(Parts(rest)).inputs if rest and signals else {}
        except LimelightError as error:
            reason = reason or error
            continue
        found = orders(model, signals, others, made.axes) if signals else {}
        names = {argument: signal.names for argument, signal in signals.items() if signal.names}
        notes = _notes(made.photos, signals, found, made.axes)
        return replace(made, axes={**made.axes, **found}, names=names, notes=notes)
    raise LimelightError(f"none of the first samples can be had: {reason}")


def _explained(model: nn.Module, kinds: Mapping[str, str], fixed: tuple[str, ...]) -> str:
    """The input that is explained: the first of values that is no mask."""
    ids = {a: torch.zeros(1, 2, dtype=torch.long if kind == "sentence" else torch.float)
           for a, kind in kinds.items()}  # fmt: skip
    return batch_of(model, ids, fixed=fixed).explained


def _by_argument(said: dict[str, str], kinds: Mapping[str, str], explained: str) -> dict[str, str]:
    """What was said of inputs, taken out of what was said of sites."""
    sites = {argument: f"input.{argument}" for argument in kinds} | {explained: "input"}
    also = {explained: f"input.{explained}"}
    found = {}
    for argument, site in sites.items():
        for name in filter(None, (site, also.get(argument))):
            if name in said:
                found[argument] = said.pop(name)
    return found


def _tokenizer(model: nn.Module) -> Any:
    """The tokenizer that a model carries, or that lies beside a Hugging Face model's weights."""
    try:
        return tokenizer_of(model)
    except ModelError:
        place = getattr(model, "name_or_path", "")
        if not place:
            raise
    try:
        from transformers import AutoTokenizer

        return tokenizer_of(model, AutoTokenizer.from_pretrained(place))
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ModelError(
            f"the sentences need the tokenizer of {place!r}, which cannot be had ({reason}): set "
            "model.tokenizer"
        ) from None


def _notes(
    photos: Preprocessing | None,
    signals: Mapping[str, Signal],
    found: Mapping[str, str],
    known: Mapping[str, str],
) -> tuple[str, ...]:
    notes = [] if photos is None else list(photos.notes)
    for argument, signal in signals.items():
        if argument not in known:
            notes.append(f"{signal.kind} taken as {found[argument]}, as the model's ops read it")
        if signal.axes == "x y z":
            notes.append(
                f"NIfTI's x y z taken as {found[argument]}; voxels stay as they are stored"
            )
    return tuple(notes)

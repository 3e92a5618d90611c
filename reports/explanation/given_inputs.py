"""Tensors that a model takes as they are: samples taken apart, and what their dimensions mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...probe.errors import LimelightError, OptionError, SiteError
from ..datasets import REFUSALS, axes_of
from .contents import KINDS

PICTURES = ("y x", "f t")
_ONE = "inputs= is one sample, for the model takes it as no batch"
_LONG = 120


@dataclass(frozen=True, eq=False)
class Given:
    """Samples without the batch, the axes of a batch of them, and what was found out by trial."""

    parts: list[Tensor]
    axes: str
    notes: tuple[str, ...] = ()

    @property
    def places(self) -> str:
        """What is neither batch nor channels: `y x`, `t`; nothing for the row of a table."""
        return " ".join(name for name in self.axes.split() if name not in ("b", "c"))

    @property
    def is_picture(self) -> bool:
        return self.places in PICTURES

    @property
    def kind(self) -> str:
        """What the page draws a sample as; "" for what it does not draw."""
        return KINDS.get(f"c {self.places}".strip(), "")

    def channels_first(self, part: Tensor) -> tuple[Tensor, str]:
        """A sample as channels and places, and what those axes are: `c t`."""
        names = [name for name in self.axes.split() if name != "b"]
        axes = f"c {self.places}".strip()
        if "c" not in names:
            return part[None], axes
        return part.movedim(names.index("c"), 0), axes


def given_inputs(model: nn.Module, inputs: Any, said: str | None) -> Given:
    """Take samples apart: a batch, one sample without a batch, or several of those in a list.

    said  the axes of a batch; else they are read off the model, as it runs on one sample
    Raises OptionError for what is no such thing, SiteError where nothing tells the axes.
    """
    if isinstance(inputs, (Tensor, np.ndarray)):
        whole = torch.as_tensor(inputs).detach()
        if not whole.ndim or 0 in whole.shape:
            raise OptionError(f"inputs= has shape {tuple(whole.shape)}, which holds no sample")
        axes, single = _read(model, whole) if said is None else _said(said, whole, (0, 1))
        notes = (_ONE,) if single and said is None else ()
        parts = [whole] if single else list(whole.unbind(axes.split().index("b")))
    else:
        parts, notes = _parts(inputs), ()
        axes = axes_of(model, parts[0][None]) if said is None else _said(said, parts[0], (1,))[0]
    return Given([part.cpu() for part in parts], axes, notes)


def _parts(inputs: Any) -> list[Tensor]:
    listed = list(inputs) if isinstance(inputs, Sequence) and not isinstance(inputs, str) else []
    if not listed or not all(isinstance(part, (Tensor, np.ndarray)) for part in listed):
        raise OptionError(
            "inputs= is a batch of samples, one of them, or several in a list, not "
            f"{type(inputs).__name__}: call limelight.maps for a model of several inputs"
        )
    parts = [torch.as_tensor(part).detach() for part in listed]
    if any(part.ndim != parts[0].ndim or 0 in part.shape for part in parts):
        shapes = ", ".join(str(tuple(part.shape)) for part in parts[:4])
        raise OptionError(f"inputs= are samples of one kind, but these have the shapes {shapes}")
    return parts


def _said(said: str, x: Tensor, missing: tuple[int, ...]) -> tuple[str, bool]:
    """The axes that were said, and whether the tensor is one sample without a batch.

    missing  how many of them the tensor may lack
    """
    words = said.split()
    if "b" not in words or len(words) - x.ndim not in missing:
        raise OptionError(
            f"inputs= over {said!r} cannot have shape {tuple(x.shape)}: say axes={{'input': ...}} "
            "with a name for each dimension, the batch `b` among them"
        )
    return said, len(words) > x.ndim


def _read(model: nn.Module, x: Tensor) -> tuple[str, bool]:
    """The axes that the model gives to a batch; or, where it takes none, to x as one sample."""
    failures: list[Exception] = []
    for single, batch in ((False, x), (True, x[None])):
        try:
            return axes_of(model, batch), single
        except (LimelightError, *REFUSALS) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            failures.append(error)
    unknown = next((error for error in failures if isinstance(error, SiteError)), None)
    if unknown is not None:
        raise unknown
    as_batch, as_one = (" ".join(str(error).split())[:_LONG] for error in failures)
    raise OptionError(
        f"{type(model).__name__} runs on inputs= of shape {tuple(x.shape)} neither as a batch "
        f"({as_batch}) nor as one sample ({as_one}): give a batch as the model takes it"
    ) from failures[0]

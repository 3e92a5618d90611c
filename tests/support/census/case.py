"""One architecture of the census, and the networks and inputs to try for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from sweep import call
from torch import nn

MOST_PARAMETERS = 150_000_000


class Skipped(Exception):  # noqa: N818  (no fault: there is nothing to examine)
    """Why an architecture is left out."""


@dataclass(frozen=True)
class Case:
    """An architecture by name, and the ways to build and feed it, the smallest first."""

    source: str
    family: str
    name: str
    attempts: Callable[[], Iterator[tuple[str, nn.Module, Any]]]

    @property
    def key(self) -> str:
        return f"{self.source} {self.name}"


def first_that_runs(case: Case) -> tuple[str, nn.Module, Any]:
    """What it was fed, the model and the input. Raises Skipped where nothing ran."""
    reasons: list[str] = []
    attempts = case.attempts()
    while True:
        try:
            told, model, x = next(attempts)
        except StopIteration:
            break
        except Exception as error:
            reasons.append(sentence(error))
            break
        size = sum(p.numel() for p in model.parameters())
        if size > MOST_PARAMETERS:
            reasons.append(f"{size / 1e6:.0f} million parameters are too many for the census")
            continue
        try:
            with torch.no_grad():
                call(model.eval(), x)
            return told, model, x
        except Exception as error:
            reasons.append(sentence(error))
    raise Skipped(reasons[0] if reasons else "no way to build it")


def shapes(x: Any) -> str:
    """What a model is fed, in words."""
    named = x.items() if isinstance(x, Mapping) else [("", x)]
    return ", ".join(f"{n} {'x'.join(map(str, t.shape))}".strip() for n, t in named)


def sentence(error: BaseException, most: int = 200) -> str:
    """An error in one line."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}"[:most] if words else type(error).__name__

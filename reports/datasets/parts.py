"""What a sample that is no single photo opens to: its parts, each for one of a model's inputs."""

from __future__ import annotations

from dataclasses import dataclass

from .signals import Signal


@dataclass(frozen=True, eq=False)
class Part:
    """One input of a sample as it was read.

    kind      `picture`, `mask`, `sentence`, or that of a signal
    argument  of the model's forward: a position, or a keyword
    content   numbers; the path of a picture or a mask; the text of a sentence
    """

    kind: str
    argument: str
    content: Signal | str


@dataclass(frozen=True, eq=False)
class Parts:
    """All inputs of a sample."""

    parts: tuple[Part, ...]

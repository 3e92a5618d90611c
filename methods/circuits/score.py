"""Scores of heads: how one is registered, and what it says beside its chance level."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from ...probe.attribution import METHODS, BoundMethod, Method
from ...probe.errors import MethodError, near
from .significance import benjamini_hochberg, label_permutations, p_values

NULLS = 100
NEEDS = ("activations", "gradient", "model")
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class CircuitScore(Method):
    """A registered score of heads; `needs` is what it reads of the evidence."""

    decorator: ClassVar[str] = "circuit_method"


def circuit_method(
    name: str, *, needs: tuple[str, ...] = ("activations",)
) -> Callable[[Function], Function]:
    """Register a score of heads: `f(evidence, **options)` gives one number a head, or a `Score`.

    evidence  a `limelight.methods.circuits.evidence.Evidence`
    needs     what it reads there, of `activations`, `gradient` and `model` (runs of its own)
    Raises MethodError for another need, and for the name of another module's method.

    Example:
        >>> @ll.circuit_method("last_norm", needs=("activations",))
        ... def last_norm(evidence):
        ...     "The norm of each head's output at the last position."
        ...     return evidence.clean.z[evidence.last].norm(dim=-1).mean(0)
        >>> ll.circuit(lm, "induction", "last_norm", truth=None, count=4).score().values.shape
        torch.Size([8])
    """
    for need in needs:
        if need not in NEEDS:
            raise MethodError(
                f"circuit method {name!r} needs {need!r}, but there are {', '.join(NEEDS)}"
                + near(need, NEEDS)
            )

    def register(function: Function) -> Function:
        METHODS.add(CircuitScore(name, function, "circuit", "heads", needs=needs))
        return function

    return register


@dataclass(frozen=True, eq=False)
class Score:
    """One number a head, larger for heads that do more.

    values  `h`
    null    the same score where the task is taken out of it, `r h`; None where none is meant
    chance  what was done for the null: labels permuted, signs drawn
    spread  the score of every seed, `s h`; `values` is their mean
    signed  the effect with its sign, `h`, where it has one
    edges   from head to head, `h h`, for scores of edges
    facts   what else a report shows: codes, shares, thresholds
    """

    values: Tensor
    null: Tensor | None = None
    chance: str = ""
    spread: Tensor | None = None
    signed: Tensor | None = None
    edges: Tensor | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def p(self) -> Tensor | None:
        """How often the null is as large, head by head: (1 + #) / (1 + r)."""
        if self.null is None:
            return None
        return p_values(self.values, self.null)

    @property
    def q(self) -> Tensor | None:
        """p corrected for the number of heads, after Benjamini and Hochberg."""
        return None if self.p is None else benjamini_hochberg(self.p)

    @property
    def excess(self) -> Tensor:
        """The score minus the mean of its null."""
        return self.values if self.null is None else self.values - self.null.mean(0)


def from_pairs(effects: Tensor, *, seed: int = 0, nulls: int = NULLS, **more: Any) -> Score:
    """A score |mean over pairs| from the effect of every pair, `p h`.

    Null: the mean after a random sign for every pair, which keeps the size of effects and takes
    their agreement. It is far above chance as a ranking: heads that matter have large effects.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(0, 2, (nulls, len(effects)), generator=generator) * 2 - 1
    mean = effects.mean(0)
    null = (draws.to(effects) @ effects / len(effects)).abs()
    return Score(mean.abs(), null, "signs of pairs drawn", signed=mean, **more)


def permuted(
    measure: Callable[[Tensor], Tensor], labels: Tensor, *, seed: int, nulls: int, **more: Any
) -> Score:
    """A score from labels, and the same from labels in random order.

    measure   labels `r e` (True for positives) to scores `r h`
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = label_permutations(labels, nulls, generator)
    rows = measure(torch.cat([labels[None], drawn]))
    return Score(rows[0], rows[1:], "labels permuted", **more)


def as_score(result: Any, bound: BoundMethod, heads: int) -> Score:
    """What a method returned as a Score. Raises MethodError when it is none."""
    score = Score(result) if isinstance(result, Tensor) else result
    if not isinstance(score, Score) or score.values.shape != (heads,):
        shape = tuple(score.values.shape) if isinstance(score, Score) else type(result).__name__
        raise MethodError(
            f"circuit method {bound.name!r} must give one number for each of {heads} heads, but "
            f"gave {shape}"
        )
    return score

"""A probe that makes the raw maps of some methods, for as many batches as one likes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from torch import Tensor
from torch.func import functional_call

from ..attribution import BoundMethod, MethodAtSite, RawMap, gather, methods_at, needed
from ..probe import Probe
from ..sites import Address, Pattern
from ..targets import Target
from .batch import Batch


class Passes:
    """Site methods and the probe that watches what they read; it runs inside its `with`.

    Names, addresses and hooks are prepared once, however many batches run and however often it
    is entered.
    """

    def __init__(
        self, probe: Probe, asked: Sequence[tuple[BoundMethod, Sequence[Address]]]
    ) -> None:
        self.probe = probe
        self.patterns = [(bound, self._watch(bound, addresses)) for bound, addresses in asked]

    def _watch(self, bound: BoundMethod, addresses: Sequence[Address]) -> list[Pattern]:
        patterns = [p for address in addresses for p in self.probe.resolve(address)]
        self.probe.watch(*needed(bound, patterns))
        return patterns

    def __enter__(self) -> Passes:
        self.probe.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.probe.__exit__(kind, error, where)

    def forward(
        self, batch: Batch, weights: Mapping[str, Tensor] | None = None
    ) -> list[MethodAtSite]:
        """Run the model, with other weights if they are given; every method at its sites."""
        run = self.probe if weights is None else self._with(weights)
        run(*batch.args, **batch.kwargs)
        return [
            source
            for bound, patterns in self.patterns
            for source in methods_at(self.probe, bound, patterns)
        ]

    def raw_maps(
        self, batch: Batch, target: Target, weights: Mapping[str, Tensor] | None = None
    ) -> list[RawMap]:
        """One forward and one backward per regime; the graph is gone afterwards."""
        return gather(self.probe, self.forward(batch, weights), target, retain=False)

    def _with(self, weights: Mapping[str, Tensor]) -> Callable[..., Any]:
        """A run of the model with other weights, which are no inputs of it."""

        def called(*args: Any, **kwargs: Any) -> Any:
            return functional_call(self.probe.model, dict(weights), args, kwargs)

        return lambda *args, **kwargs: self.probe.run(called, *args, **kwargs)

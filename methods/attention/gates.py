"""Gates that choose blocks of keys, beside what they should see: the protocol of such models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor


class BlockGate(Protocol):
    """One layer's gate on one batch: maps of blocks `b h n n`, and figures `b h`.

    scores   probabilities of the gate; truth: pooled attention, rows normalised
    density  share of the causal blocks that are chosen
    kept     attention's mass in chosen blocks; as many would keep `oracle` where they hold the most
             mass, `local` nearest to the query, `random` drawn
    """

    @property
    def scores(self) -> Tensor: ...

    @property
    def truth(self) -> Tensor: ...

    @property
    def density(self) -> Tensor: ...

    @property
    def kept(self) -> Tensor: ...

    @property
    def oracle(self) -> Tensor: ...

    @property
    def local(self) -> Tensor: ...

    @property
    def random(self) -> Tensor: ...


@runtime_checkable
class ComparesGates(Protocol):
    """A language model whose gates can be laid beside dense attention."""

    def compare_gates(self, input_ids: Tensor) -> Sequence[BlockGate]:
        """Each layer's gate beside the pooled attention of a dense pass."""
        ...

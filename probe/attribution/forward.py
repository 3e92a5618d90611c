"""What a method reads of a forward that has run: a Protocol that the probe fulfils."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from ..axes import Layout
from ..sites import Adapter, Address, Pattern
from ..targets import Given, Target
from ..trace import Trace, Value


class Forward(Protocol):
    """A forward under a probe: its values, its model's parts, and a backward from any target."""

    @property
    def adapter(self) -> Adapter: ...
    @property
    def modules(self) -> dict[str, nn.Module]: ...
    @property
    def trace(self) -> Trace: ...
    @property
    def input_sizes(self) -> Mapping[str, int]: ...
    def layout(self, value: Value) -> Layout: ...
    @property
    def given(self) -> Given: ...
    def resolve(self, address: Address) -> list[Pattern]: ...
    def watch(self, *addresses: Address) -> object: ...
    @property
    def watched(self) -> Sequence[Pattern]: ...
    def values(self, sites: Sequence[Address] = ...) -> list[Value]: ...

    # A regime is a name, or a preset of rules; those live on a higher floor, and only a probe
    # tells them apart.
    def differentiate(
        self,
        target: Target,
        values: Sequence[Value],
        receive: Callable[[Value, Tensor], None],
        *,
        regime: Any = "plain",
        retain: bool = True,
    ) -> Tensor: ...

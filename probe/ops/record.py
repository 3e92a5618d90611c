"""What a relevance rule needs of an op once the forward is over: its arguments, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor
from torch.autograd.graph import Node

from ..sites import Site
from ..trace import Value
from .functions import Op, tensors
from .table import spec_of

# How functions name an argument that the table calls otherwise.
_SYNONYMS = {"mat1": "input", "mat2": "other", "vec": "other", "self": "input"}

Edge = tuple[Node, int]


@dataclass(slots=True)
class OpInput:
    """A tensor argument: its value, guarded against overwriting, and where its gradient goes."""

    value: Value
    edge: Edge | None

    @staticmethod
    def of(x: Tensor) -> OpInput:
        """Hold one tensor, detached."""
        edge = None if x.grad_fn is None else (x.grad_fn, x.output_nr)
        return OpInput(Value(Site(""), x.detach(), None), edge)

    @property
    def act(self) -> Tensor:
        return self.value.act


@dataclass(slots=True)
class OpCall:
    """One call of an op: named arguments, tensors as inputs; its result."""

    named: dict[str, Any]
    inputs: list[OpInput]
    out: OpInput | None = None

    @staticmethod
    def of(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> OpCall:
        """Hold the arguments of a call, tensors with the edges they have now."""
        inputs: list[OpInput] = []
        spec = spec_of(op.name)
        if not spec.reads_inputs:
            return OpCall({}, inputs)

        def hold(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            inputs.append(OpInput.of(x))
            return inputs[-1]

        named = {name: hold(x) for name, x in zip(spec.parameters, args, strict=False)}
        named |= {_SYNONYMS.get(name, name): hold(x) for name, x in kwargs.items()}
        for x in tensors(args[len(spec.parameters) :]):
            hold(x)
        return OpCall(named, inputs)

    def arguments(self) -> dict[str, Any]:
        """The named arguments with tensors in place of inputs."""
        return {k: x.act if isinstance(x, OpInput) else x for k, x in self.named.items()}

    def varies(self, name: str) -> bool:
        """Whether a named argument depends on the network's input."""
        argument = self.named.get(name)
        return isinstance(argument, OpInput) and argument.edge is not None

    def reroute(self, old: Tensor, new: Tensor) -> None:
        """Let `new`, on which the op works in place of `old`, be the input."""
        before, after = OpInput.of(old).edge, OpInput.of(new).edge
        for x in self.inputs:
            if x.edge == before:
                x.edge = after

    def value_and_weight(self, name: str) -> tuple[OpInput, OpInput] | None:
        """The value and the constant of a product that is a linear map: `x @ weight`, einsum."""
        if name not in ("matmul", "einsum", "addmm") or self.varies("bias"):
            return None
        factors = [x for x in self.inputs if x is not self.named.get("bias")]
        if len(factors) != 2 or (factors[0].edge is None) == (factors[1].edge is None):
            return None
        x, weight = factors if factors[1].edge is None else factors[::-1]
        w = weight.act
        fixed = w.is_floating_point() and w.ndim > 1 and not x.act.is_complex()
        return (x, weight) if fixed else None


class OpRecord(NamedTuple):
    """An op of the forward and the autograd nodes it made, last one first."""

    name: str
    place: str
    nodes: tuple[Node, ...]
    rectifies: bool
    call: OpCall | None = None

"""What a relevance rule needs of an op once the forward is over: its operands, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import Node

from ..sites import Site
from ..trace import Value
from .kinds import operands_needed
from .table import Op, tensors

_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_CONV_T = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_PAIR = ("input", "other")
_STATS = ("input", "running_mean", "running_var", "weight", "bias")

# Positional names of the ops that have a rule of their own.
PARAMETERS: dict[str, tuple[str, ...]] = {
    "linear": ("input", "weight", "bias"),
    **{f"conv{d}d": _CONV for d in (1, 2, 3)},
    **{f"conv_transpose{d}d": _CONV_T for d in (1, 2, 3)},
    "batch_norm": (*_STATS, "training", "momentum", "eps"),
    "instance_norm": (*_STATS, "use_input_stats", "momentum", "eps"),
    "layer_norm": ("input", "normalized_shape", "weight", "bias", "eps"),
    "group_norm": ("input", "num_groups", "weight", "bias", "eps"),
    "rms_norm": ("input", "normalized_shape", "weight", "eps"),
    "add": _PAIR,
    "mul": _PAIR,
    "div": _PAIR,
    "matmul": _PAIR,
    "einsum": ("equation",),
    "addmm": ("bias", "input", "other"),
    "pow": ("input", "exponent"),
    "glu": ("input", "dim"),
    "max_pool2d": ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    "scaled_dot_product_attention": (
        "query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa",
    ),
}  # fmt: skip
_ALIASES = {"mat1": "input", "mat2": "other", "vec": "other", "self": "input"}

Edge = tuple[Node, int]


@dataclass(slots=True)
class Operand:
    """A tensor argument: its value, guarded against overwriting, and where its gradient goes."""

    value: Value
    edge: Edge | None

    @property
    def act(self) -> Tensor:
        return self.value.act


@dataclass(slots=True)
class Call:
    """One call of an op: named arguments, tensors as operands; its result."""

    named: dict[str, Any]
    operands: list[Operand]
    out: Operand | None = None

    def plain(self) -> dict[str, Any]:
        """The named arguments with tensors in place of operands."""
        return {k: v.act if isinstance(v, Operand) else v for k, v in self.named.items()}

    def varies(self, name: str) -> bool:
        """Whether a named argument depends on the input."""
        one = self.named.get(name)
        return isinstance(one, Operand) and one.edge is not None

    def reroute(self, old: Tensor, new: Tensor) -> None:
        """Let `new`, on which the op works in place of `old`, be the operand."""
        was, now = operand(old).edge, operand(new).edge
        for held in self.operands:
            if held.edge == was:
                held.edge = now

    def map_of(self, name: str) -> tuple[Operand, Operand] | None:
        """The value and the constant of a product that is a linear map: `x @ weight`, einsum."""
        if name not in ("matmul", "einsum", "addmm") or self.varies("bias"):
            return None
        two = [o for o in self.operands if o is not self.named.get("bias")]
        if len(two) != 2 or (two[0].edge is None) == (two[1].edge is None):
            return None
        x, w = two if two[1].edge is None else two[::-1]
        fixed = w.act.is_floating_point() and w.act.ndim > 1 and not x.act.is_complex()
        return (x, w) if fixed else None


def keep(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """Hold the arguments of a call, tensors detached, with the edges they have now."""
    operands: list[Operand] = []
    if not operands_needed(op.name):
        return Call({}, operands)

    def held(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        operands.append(operand(x))
        return operands[-1]

    names = PARAMETERS.get(op.name, ())
    named = {name: held(x) for name, x in zip(names, args, strict=False)}
    rest = args[len(names) :]
    named |= {_ALIASES.get(name, name): held(x) for name, x in kwargs.items()}
    for x in tensors(rest):
        held(x)
    return Call(named, operands)


def operand(x: Tensor) -> Operand:
    """Hold one tensor."""
    edge = None if x.grad_fn is None else (x.grad_fn, x.output_nr)
    return Operand(Value(Site(""), x.detach(), None), edge)


def wide(x: Tensor) -> Tensor:
    """In the precision rules work in: float32, or float64 where the model does."""
    return x if x.dtype == torch.float64 or x.is_complex() else x.float()


class OpRecord(NamedTuple):
    """An op of the forward and the autograd nodes it made, last one first."""

    name: str
    place: str
    nodes: tuple[Node, ...]
    rectifies: bool
    call: Call | None = None

"""How ops that are no plain linear map share relevance out among their inputs.

A rule is a function from what it sees of one op, its RuleContext, to the messages that it sends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...kernels.kernel import FACES, Face
from ...kernels.shared import wide
from ..errors import LimelightError
from ..ops import Edge, OpCall, OpInput, rows_of_map, spec_of
from .assignment import Assignment, uses_running_statistics
from .attention_rules import (
    content_map,
    held_values,
    shared_relevance,
    stepwise_relevance,
    table_values,
)
from .linear_rules import ratio
from .messages import Message, backward_of_op

if TYPE_CHECKING:
    from ..ops import OpRecord
    from .presets import Preset


class NoRule(LimelightError, NotImplementedError):  # noqa: N818
    """An op that relevance reached and that no rule speaks of."""


@dataclass(frozen=True)
class RuleContext:
    """What a rule sees of one op whose result has received something.

    g, r    the gradient of the result, and relevance beside it
    others  the gradients of the op's further results, by number
    """

    op: OpRecord
    call: OpCall
    out: OpInput
    g: Tensor
    r: Tensor | None
    others: Mapping[int, Tensor]
    assignment: Assignment

    @property
    def preset(self) -> Preset:
        return self.assignment.preset

    def plain(self) -> Iterator[Message]:
        """The plain gradient to every input."""
        return (Message(edge, x) for edge, x in self.plain_gradients().items())

    def plain_gradients(self) -> dict[Edge, Tensor]:
        """The plain gradient of each input."""
        return backward_of_op(self.op, {**self.others, 0: self.g})

    def to(self, x: OpInput, grad: Tensor) -> Message:
        """A gradient for an input, in the input's own precision."""
        return Message(x.edge, grad.to(x.act.dtype))

    def unchanged(self) -> Message:
        """R itself for the first input, where no quotient of values may be trusted."""
        relevance = wide(self.out.act) * wide(self.g)
        return Message(self.call.inputs[0].edge, relevance, relevance=True)

    def sharing(self) -> list[OpInput]:
        """The factors of a product that take relevance: those that are not weight-like."""
        varying = [x for x in self.call.inputs if x.edge is not None]
        takes_none = self.assignment.takes_none
        return [x for x in varying if x.edge and not takes_none(x.edge)] or varying

    def holds(self, name: str) -> bool:
        """Whether an argument takes no relevance beside others."""
        x = self.call.named[name]
        return isinstance(x, OpInput) and x.edge is not None and self.assignment.takes_none(x.edge)


OpRule = Callable[[RuleContext], Iterable[Message]]


def _pass(c: RuleContext) -> Iterable[Message]:
    """R unchanged through an elementwise function: g y / x, its limit f'(0) at x = 0."""
    x = c.call.inputs[0]
    if x.edge is None or x.act.is_complex():
        return c.plain()
    at, y = wide(x.act), wide(c.out.act)
    back = (wide(c.g) * y).div_(at)
    if not back.sum().isfinite() and bool((at == 0).any()):  # a zero leaves nan or inf
        plain = c.plain_gradients().get(x.edge)
        limit = torch.zeros_like(back) if plain is None else wide(plain)
        back = torch.where(at == 0, limit, back)
    return [c.to(x, back)]


def _batch_norm(c: RuleContext) -> Iterable[Message]:
    """A batch norm on its own: R passes, or statistics are constants and the shift keeps R."""
    if c.preset.norms == "pass":
        return [c.unchanged()]
    return c.plain() if uses_running_statistics(c.op) else _norm(c)


def _norm(c: RuleContext) -> Iterable[Message]:
    """Norms with the scale held; the mean is subtracted linearly."""
    if c.preset.norms == "pass" and c.preset.attention == "stepwise":
        return [c.unchanged()]
    if c.op.name == "instance_norm" and uses_running_statistics(c.op):
        return c.plain()
    x, n = c.call.named["input"], c.call.arguments()
    view, dims = _norm_view(c.op.name, x.act, n)
    at, weight = wide(x.act).reshape(view), _spread(n.get("weight"), c.op.name, x.act)
    d = (wide(c.g) if weight is None else wide(c.g) * weight).reshape(view)
    eps = n.get("eps")
    if c.op.name == "rms_norm":
        eps = torch.finfo(x.act.dtype).eps if eps is None else eps
        back = d * torch.rsqrt(at.square().mean(dims, keepdim=True) + eps)
    else:
        d = d * _inverse_deviation(at, dims, 1e-5 if eps is None else eps)
        back = d.sub_(d.mean(dims, keepdim=True))
    return [c.to(x, back.reshape(x.act.shape))]


def _inverse_deviation(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """1 / sqrt(var + eps), dims kept; over the last ones by the faster kernel of the norm."""
    if dims == tuple(range(-len(dims), 0)):
        return torch.native_layer_norm(x, x.shape[-len(dims) :], None, None, eps)[2]
    return torch.rsqrt(x.var(dims, unbiased=False, keepdim=True) + eps)


def _norm_view(
    name: str, x: Tensor, n: Mapping[str, Any]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape in which a norm's statistics are over some dimensions, and those dimensions."""
    if name in ("layer_norm", "rms_norm"):
        return tuple(x.shape), tuple(range(-len(n["normalized_shape"]), 0))
    if name == "batch_norm":
        return tuple(x.shape), (0, *range(2, x.ndim))
    groups = n["num_groups"] if name == "group_norm" else x.shape[1]
    return (x.shape[0], groups, -1), (2,)


def _spread(weight: Tensor | None, name: str, x: Tensor) -> Tensor | None:
    if weight is None or name in ("layer_norm", "rms_norm"):
        return None if weight is None else wide(weight)
    return wide(weight).reshape(1, -1, *[1] * (x.ndim - 2))


def _share(c: RuleContext) -> Iterator[Message]:
    """A product of several values: each free factor takes an equal share; a bias is no factor."""
    sharing = c.sharing()
    bias = c.call.named.get("bias") if "bias" in spec_of(c.op.name).parameters else None
    added = bias.edge if isinstance(bias, OpInput) else None
    count = len([x for x in sharing if added is None or x.edge != added])
    edges = {x.edge for x in sharing}
    for edge, x in c.plain_gradients().items():
        if edge == added:
            yield Message(edge, x)
        elif edge in edges:
            yield Message(edge, x / count)


def _divide(c: RuleContext) -> Iterable[Message]:
    """A quotient: the numerator takes all."""
    top, below = c.call.named.get("input"), c.call.named.get("other")
    if not isinstance(top, OpInput) or not isinstance(below, OpInput):
        return c.plain()
    back = wide(c.g) / wide(below.act) if not c.g.is_complex() else c.g / below.act.conj()
    return [c.to(top, _summed(back, top.act))]


def _summed(x: Tensor, like: Tensor) -> Tensor:
    """A gradient summed over the dimensions that its value was broadcast along."""
    return x.sum_to_size(like.shape) if x.shape != like.shape else x


def _glu(c: RuleContext) -> Iterable[Message]:
    """a sigmoid(b): the gate is held, or each half takes half."""
    x, dim = c.call.named["input"], c.call.named.get("dim", -1)
    a, b = wide(x.act).chunk(2, dim)
    g = wide(c.g)
    if "gate" in c.preset.weightlike:
        return [c.to(x, torch.cat([g * b.sigmoid(), torch.zeros_like(b)], dim))]
    half = g * a * b.sigmoid() / 2
    return [c.to(x, torch.cat([g * b.sigmoid() / 2, ratio(half, b, 1e-10)], dim))]


def _attention(c: RuleContext) -> Iterator[Message]:
    """Fused attention: the map is held and v takes all; or q, k and v share."""
    q, k, v = (c.call.named[name] for name in ("query", "key", "value"))
    values, options = (q.act, k.act, v.act), c.call.arguments()
    if c.preset.attention == "hold":
        yield c.to(v, held_values(*values, c.g, options))
        return
    if c.preset.attention == "attnlrp":
        shares = shared_relevance(*values, c.g, options)
    else:
        shares = stepwise_relevance(*values, c.g, rows_of_map(q.act, k.act, options))
    for x, share in zip((q, k, v), shares, strict=True):
        yield c.to(x, share)


def _mixer(c: RuleContext) -> Iterator[Message]:
    """A kernel: an equal part of its plain gradient to each argument that its face shares among.

    Those that are weight-like have no part. For attention that is v alone, the map held, unless the
    preset asks for q and k as well; steps from the map to its scores are taken only where each
    entry is of one score.
    """
    face = FACES[c.op.name]
    varying = [name for name in face.share if c.call.varies(name)]
    varying = [name for name in varying if not c.holds(name)] or varying
    parts = dict.fromkeys(varying, 1 / max(1, len(varying)))
    if c.preset.attention != "hold" and face.share == (face.values,) and "q" in c.call.named:
        if c.preset.attention != "stepwise":
            parts = dict.fromkeys(c.call.named, 1 / 2) | {"q": 1 / 4, "k": 1 / 4}
        elif face.entrywise:
            yield from _stepwise(c, face)
            return
    plain = c.plain_gradients()
    for name, part in parts.items():
        x = c.call.named.get(name)
        if isinstance(x, OpInput) and x.edge in plain:
            yield Message(x.edge, plain[x.edge] * part)


def _stepwise(c: RuleContext, face: Face) -> Iterator[Message]:
    named = c.call.arguments()
    q, k, v = stepwise_relevance(named["q"], named["k"], named["v"], c.g, content_map(face, named))
    v = v + table_values(face, named, c.g)
    for name, share in (("q", q), ("k", k), ("v", v)):
        yield c.to(c.call.named[name], share)


def _max_pool(c: RuleContext) -> Iterable[Message]:
    """The winner takes all; in overlapping windows each win counts, unless told otherwise."""
    if c.preset.pool != "unpool-overwrite":
        return c.plain()
    x, n = c.call.named["input"], c.call.arguments()
    geometry = {
        k: n[k] for k in ("stride", "padding", "dilation", "ceil_mode") if n.get(k) is not None
    }
    _, places = F.max_pool2d(x.act, n["kernel_size"], return_indices=True, **geometry)
    back = torch.zeros_like(x.act).flatten(2)
    back.scatter_(2, places.flatten(2), c.g.to(back).flatten(2))
    return [c.to(x, back.reshape(x.act.shape))]


def _sample(c: RuleContext) -> Iterable[Message]:
    """What is read takes all, through the transposed reading; where it is read is held."""
    x = c.call.named["input"]
    plain = c.plain_gradients() if x.edge is not None else {}
    return [Message(edge, grad) for edge, grad in plain.items() if edge == x.edge]


def _gradient(c: RuleContext) -> Iterable[Message]:
    """The plain gradient, which shares a sum by values; or its residual form."""
    varying = {x.edge: x for x in c.call.inputs if x.edge is not None}
    residual = c.op.name == "add" or (c.op.name == "sub" and len(varying) == 1)
    if c.preset.residual == "values" or not residual or not varying:
        return c.plain()
    return _renormalised(c, varying)


def _renormalised(c: RuleContext, varying: Mapping[Edge, OpInput]) -> Iterator[Message]:
    """|total of one summand| / (sum of both) of R to each, a total for each sample.

    A constant summand, as a position embedding is one, has a share too, which nobody receives:
    what the others leave of the whole, be it a tensor or a number, added or subtracted.
    """
    plain = c.plain_gradients()
    shares = {edge: _booked(x.act, plain[edge]) for edge, x in varying.items()}
    kept = _booked(c.out.act, c.g)
    apart = all(share.shape[:1] == kept.shape[:1] for share in shares.values())
    # A summand without a row a sample has one share for all of them.
    rows = kept.shape[0] if apart and kept.ndim else 1
    totals = {edge: share.reshape(rows, -1).sum(1) for edge, share in shares.items()}
    whole, parts = kept.reshape(rows, -1).sum(1), torch.stack([*totals.values()])
    sizes = parts.abs().sum(0)
    if len(totals) == 1:
        sizes = sizes + (whole - parts.sum(0)).abs()
    for edge, total in totals.items():
        factor = ratio(total.abs() * ratio(whole, sizes, 0), total, 1e-9)
        share = plain[edge] * factor.reshape(-1, *[1] * (plain[edge].ndim - 1))
        yield c.to(varying[edge], _summed(share, plain[edge]))


def _booked(x: Tensor, g: Tensor) -> Tensor:
    """x g, with no share where nothing arrives: a mask of -inf has none."""
    return (wide(x) * wide(g)).masked_fill_(g == 0, 0)


def _softmax(c: RuleContext) -> Iterable[Message]:
    """Its plain gradient, x - s sum x; or R itself."""
    return [c.unchanged()] if c.preset.attention == "stepwise" else c.plain()


def _refuse(c: RuleContext) -> Iterable[Message]:
    if c.preset.unknown == "gradient":
        return c.plain()
    raise no_rule(c.op)


def no_rule(op: OpRecord) -> NoRule:
    """The error for an op that no rule speaks of."""
    return NoRule(
        f"op {op.name!r} at {op.place} has no relevance rule; rewrite it in ops that have one, "
        "or pass unknown='gradient' to let its plain gradient through"
    )


OP_RULES: dict[str, OpRule] = {
    "pass": _pass,
    "batch_norm": _batch_norm,
    "norm": _norm,
    "product": _share,
    "gate": _pass,
    "glu": _glu,
    "quotient": _divide,
    "attention": _attention,
    "mixer": _mixer,
    "softmax": _softmax,
    "max_pool": _max_pool,
    "sample": _sample,
    "gradient": _gradient,
    "statistic": RuleContext.plain,
    "none": _refuse,
}

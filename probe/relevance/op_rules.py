"""How ops that are no plain linear map share relevance out among their operands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...kernels.kernel import FACES, Face
from ..errors import LimelightError
from ..ops import Call, Operand, whole_map, wide
from .assignment import Scheme, uses_running_statistics
from .attention_rules import content_map, held_values, shared_relevance, stepwise_relevance
from .linear_rules import ratio
from .messages import Flow, backward_of_op

if TYPE_CHECKING:
    from ..ops import OpRecord
    from .presets import Preset


class NoRule(LimelightError, NotImplementedError):  # noqa: N818
    """An op that relevance reached and that no rule speaks of."""


@dataclass(frozen=True)
class Turn:
    """One op whose result has received g, and relevance r beside it; where to hand it on."""

    op: OpRecord
    call: Call
    g: Tensor
    r: Tensor | None
    flow: Flow
    scheme: Scheme
    more: Mapping[int, Tensor]

    @property
    def preset(self) -> Preset:
        return self.scheme.preset

    def plain(self) -> None:
        """Hand on the plain gradient."""
        for edge, x in self.plainly().items():
            self.flow.add(edge, x)

    def plainly(self) -> dict:
        return backward_of_op(self.op, {**self.more, 0: self.g})

    def give(self, to: Operand, x: Tensor) -> None:
        """Hand a gradient to an operand, in the operand's own precision."""
        self.flow.add(to.edge, x.to(to.act.dtype))

    def relevance(self) -> Tensor | None:
        """The relevance of the result."""
        return None if self.call.out is None else wide(self.call.out.act) * wide(self.g)

    def free(self) -> list[Operand]:
        """The operands of a product that take relevance: those that are not weight-like."""
        variable = [o for o in self.call.operands if o.edge is not None]
        free = [o for o in variable if o.edge is None or o.edge[0] not in self.scheme.weightlike]
        return free or variable


def _pass(t: Turn) -> None:
    """R unchanged through an elementwise function: g y / x, its limit f'(0) at x = 0."""
    x, out = t.call.operands[0], t.call.out
    if out is None or x.edge is None or x.act.is_complex():
        t.plain()
        return
    at, y = wide(x.act), wide(out.act)
    back = (wide(t.g) * y).div_(at)
    if not back.sum().isfinite() and bool((at == 0).any()):  # a zero leaves nan or inf
        plain = t.plainly().get(x.edge)
        limit = torch.zeros_like(back) if plain is None else wide(plain)
        back = torch.where(at == 0, limit, back)
    t.give(x, back)


def _unchanged(t: Turn) -> None:
    """R itself goes on, where no quotient of values may be trusted."""
    x, r = t.call.operands[0], t.relevance()
    if r is not None:
        t.flow.add(x.edge, r, relevance=True)


def _batch_norm(t: Turn) -> None:
    """A batch norm on its own: R passes, or statistics are constants and the shift keeps R."""
    if t.preset.norms == "pass":
        _unchanged(t)
    elif uses_running_statistics(t.op):
        t.plain()
    else:
        _statistics(t)


def _statistics(t: Turn) -> None:
    """Norms with the scale held; the mean is subtracted linearly."""
    if t.preset.norms == "pass" and t.preset.attention == "stepwise":
        _unchanged(t)
        return
    if t.op.name == "instance_norm" and uses_running_statistics(t.op):
        t.plain()
        return
    x, n = t.call.named["input"], t.call.plain()
    view, dims = _norm_view(t.op.name, x.act, n)
    at, weight = wide(x.act).reshape(view), _spread(n.get("weight"), t.op.name, x.act)
    d = (wide(t.g) if weight is None else wide(t.g) * weight).reshape(view)
    eps = n.get("eps")
    if t.op.name == "rms_norm":
        eps = torch.finfo(x.act.dtype).eps if eps is None else eps
        back = d * torch.rsqrt(at.square().mean(dims, keepdim=True) + eps)
    else:
        d = d * _inverse_deviation(at, dims, 1e-5 if eps is None else eps)
        back = d.sub_(d.mean(dims, keepdim=True))
    t.give(x, back.reshape(x.act.shape))


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


def _share(t: Turn) -> None:
    """A product of several values: each free factor takes an equal share."""
    free = t.free()
    edges = {o.edge for o in free}
    added = t.call.named.get("bias") if t.op.name in ("addmm", "linear") else None
    added = t.call.named.get("bias") if t.op.name.startswith("conv") else added
    own = added.edge if isinstance(added, Operand) else None
    count = len([o for o in free if own is None or o.edge != own])
    for edge, x in t.plainly().items():
        if edge == own:
            t.flow.add(edge, x)
        elif edge in edges:
            t.flow.add(edge, x / count)


def _divide(t: Turn) -> None:
    """A quotient: the numerator takes all."""
    top, below = t.call.named.get("input"), t.call.named.get("other")
    if not isinstance(top, Operand):
        t.plain()
    elif isinstance(below, Operand):
        back = wide(t.g) / wide(below.act) if not t.g.is_complex() else t.g / below.act.conj()
        t.give(top, _summed(back, top.act))
    else:
        t.plain()


def _summed(x: Tensor, like: Tensor) -> Tensor:
    """A gradient summed over the dimensions that its value was broadcast along."""
    return x.sum_to_size(like.shape) if x.shape != like.shape else x


def _glu(t: Turn) -> None:
    """a sigmoid(b): the gate is held, or each half takes half."""
    x, dim = t.call.named["input"], t.call.named.get("dim", -1)
    a, b = wide(x.act).chunk(2, dim)
    g = wide(t.g)
    if "gate" in t.preset.weightlike:
        t.give(x, torch.cat([g * b.sigmoid(), torch.zeros_like(b)], dim))
        return
    half = g * a * b.sigmoid() / 2
    t.give(x, torch.cat([g * b.sigmoid() / 2, ratio(half, b, 1e-10)], dim))


def _attention(t: Turn) -> None:
    """Fused attention: the map is held and v takes all; or q, k and v share."""
    q, k, v = (t.call.named[name] for name in ("query", "key", "value"))
    values, options = (q.act, k.act, v.act), t.call.plain()
    if t.preset.attention == "hold":
        t.give(v, held_values(*values, t.g, options))
        return
    if t.preset.attention == "attnlrp":
        shares = shared_relevance(*values, t.g, options)
    else:
        shares = stepwise_relevance(*values, t.g, whole_map(q.act, k.act, options))
    for to, x in zip((q, k, v), shares, strict=True):
        t.give(to, x)


def _mixer(t: Turn) -> None:
    """A kernel: an equal part of its plain gradient to each argument that its face shares among.

    For attention that is v alone, the map held, unless the preset asks for q and k as well.
    """
    face = FACES[t.op.name]
    vary = [name for name in face.share if t.call.varies(name)]
    parts = dict.fromkeys(vary, 1 / max(1, len(vary)))
    if t.preset.attention != "hold" and face.share == (face.values,) and "q" in t.call.named:
        if t.preset.attention == "stepwise":
            _stepwise(t, face)
            return
        parts = dict.fromkeys(t.call.named, 1 / 2) | {"q": 1 / 4, "k": 1 / 4}
    plain = t.plainly()
    for name, part in parts.items():
        to = t.call.named.get(name)
        if isinstance(to, Operand) and to.edge in plain:
            t.flow.add(to.edge, plain[to.edge] * part)


def _stepwise(t: Turn, face: Face) -> None:
    named = t.call.plain()
    shares = stepwise_relevance(named["q"], named["k"], named["v"], t.g, content_map(face, named))
    for name, x in zip(("q", "k", "v"), shares, strict=True):
        t.give(t.call.named[name], x)


def _max_pool(t: Turn) -> None:
    """The winner takes all; in overlapping windows each win counts, unless told otherwise."""
    x, n = t.call.named["input"], t.call.plain()
    if t.preset.pool != "unpool-overwrite":
        t.plain()
        return
    how = {k: n[k] for k in ("stride", "padding", "dilation", "ceil_mode") if n.get(k) is not None}
    _, places = F.max_pool2d(x.act, n["kernel_size"], return_indices=True, **how)
    back = torch.zeros_like(x.act).flatten(2)
    back.scatter_(2, places.flatten(2), t.g.to(back).flatten(2))
    t.give(x, back.reshape(x.act.shape))


def _add(t: Turn) -> None:
    """A sum shares by values; renormalised, |total of one share| / (sum of both) of R to each."""
    two = [o for o in t.call.operands if o.edge is not None]
    if t.preset.residual == "values" or t.op.name != "add" or len(two) != 2:
        t.plain()
        return
    parts = [_summed(wide(t.g), o.act) for o in two]
    totals = [(wide(o.act) * x).flatten(1).sum(1) for o, x in zip(two, parts, strict=True)]
    whole, sizes = totals[0] + totals[1], totals[0].abs() + totals[1].abs()
    for o, x, total in zip(two, parts, totals, strict=True):
        factor = ratio(total.abs() * whole / sizes, total, 1e-9)
        t.give(o, x * factor.reshape(-1, *[1] * (x.ndim - 1)))


def _softmax(t: Turn) -> None:
    """Its plain gradient, x - s sum x; or R itself."""
    if t.preset.attention == "stepwise":
        _unchanged(t)
    else:
        t.plain()


def _refuse(t: Turn) -> None:
    if t.preset.unknown == "gradient":
        t.plain()
        return
    raise no_rule(t.op)


def no_rule(op: OpRecord) -> NoRule:
    """The error for an op that no rule speaks of."""
    return NoRule(
        f"op {op.name!r} at {op.place} has no relevance rule; rewrite it in ops that have one, "
        "or pass unknown='gradient' to let its plain gradient through"
    )


RULES: dict[str, Callable[[Turn], None]] = {
    "pass": _pass,
    "batch_norm": _batch_norm,
    "norm": _statistics,
    "product": _share,
    "gate": _pass,
    "glu": _glu,
    "quotient": _divide,
    "attention": _attention,
    "mixer": _mixer,
    "softmax": _softmax,
    "max_pool": _max_pool,
    "gradient": _add,
    "statistic": Turn.plain,
    "none": _refuse,
}

"""Linear maps as rules see them: y = W x + b with any W put in place of the layer's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...kernels.shared import wide
from ..ops import OpCall, OpInput

Forward = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class LinearMap:
    """A linear map with its own geometry: `forward(x, w, b)` and `transpose(s, w)`.

    outputs  a scale per output channel -> that scale in the weight's shape
    places   1 where x holds values, 0 where zeros were put around them; None without such zeros
    y, grad  what the forward made of x, and the gradient g where all its relevance is y g
    record   called with what a rule absorbs: `bias` or `stabiliser`, and how much
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    forward: Forward
    transpose: Callable[[Tensor, Tensor], Tensor]
    outputs: Callable[[Tensor], Tensor] | None = None
    record: Callable[[str, Tensor], None] | None = None
    places: Tensor | None = None
    y: Tensor | None = None
    grad: Tensor | None = None

    @property
    def ones(self) -> Tensor:
        """An x of ones with the zeros that were put around it, as a convolution pads by itself."""
        return torch.ones_like(self.x) if self.places is None else self.places

    def followed_by(self, norm: OpCall) -> LinearMap:
        """The map and a batch norm that reads stored statistics, as one map."""
        n = norm.arguments()
        mean, var = wide(n["running_mean"]), wide(n["running_var"])
        scale = torch.rsqrt(var + n.get("eps", 1e-5))
        if n.get("weight") is not None:
            scale = scale * wide(n["weight"])
        shift = wide(n["bias"]) if n.get("bias") is not None else torch.zeros_like(mean)
        return self.scaled(scale, shift, mean)

    def scaled(self, scale: Tensor, shift: Tensor, mean: Tensor) -> LinearMap:
        """The map, and (y - mean) scale + shift per output channel, as one map."""
        if self.outputs is None:
            raise TypeError("this linear map has no output channels to scale")
        bias = -mean if self.bias is None else self.bias - mean
        weight = self.weight * self.outputs(scale)
        return replace(self, weight=weight, bias=bias * scale + shift)

    def absorb(
        self, s: Tensor, z: Tensor, stable: Tensor, bias: Tensor | None, times: float
    ) -> None:
        """Record what s = R / stab(z) leaves in the bias and in the stabiliser."""
        if self.record is None:
            return
        if bias is not None:
            channel = s.ndim - self.weight.ndim + 1 if self.weight.ndim > 2 else -1
            rest = s.movedim(channel, -1).flatten(0, -2).double().sum(0)
            self.record("bias", times * rest * bias.double())
        self.record("stabiliser", times * (s.double() * (stable.double() - z.double())))


def around_zeros(x: OpInput) -> Tensor | None:
    """1 where a value holds what was there before zeros were put around it; None where none were.

    Places that no input reaches are no part of it, whether a convolution pads or an op before it.
    """
    node = None if x.edge is None else x.edge[0]
    pads: list[list[int]] = []
    while node is not None and "ConstantPadNd" in node.name():
        pads.append([_signed(n) for n in node._saved_pad])  # type: ignore[attr-defined]
        node = node.next_functions[0][0]
    if not pads:
        return None
    shape = list(x.act.shape)
    for pad in pads:
        for i, n in enumerate(pad):
            shape[-1 - i // 2] -= n
    places = wide(x.act).new_ones(shape)
    for pad in reversed(pads):
        places = F.pad(places, pad)
    empty = bool((x.act[places == 0] == 0).all())
    return places if empty else None


def _signed(number: int) -> int:
    """A size that torch saved as 64 bits without a sign."""
    return number - (1 << 64) if number >= 1 << 63 else number


def linear_map(name: str, call: OpCall) -> LinearMap:
    """The linear map of a convolution, a linear layer or a product with a constant."""
    product = call.value_and_weight(name)
    if product is not None:
        return _product(name, call, *(wide(o.act) for o in product))
    named = call.arguments()
    x, weight, bias = wide(named["input"]), wide(named["weight"]), named.get("bias")
    bias = None if bias is None else wide(bias)
    if name == "grouped_mm":
        return _of_experts(x, weight, bias, named["offs"])
    if name == "linear":
        return LinearMap(x, weight, bias, F.linear, lambda s, w: s @ w, lambda t: t[:, None])
    return _convolution(name, named, x, weight, bias)


def _of_experts(x: Tensor, weight: Tensor, bias: Tensor | None, offs: Tensor) -> LinearMap:
    """Rows of tokens sorted by expert, each run of rows up to `offs` times its expert's matrix."""
    runs = list(pairwise([0, *offs.tolist()]))

    def forward(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        y = x.new_zeros(len(x), w.shape[-1])  # rows behind the last run belong to nobody
        for expert, (start, stop) in enumerate(runs):
            y[start:stop] = x[start:stop] @ w[expert]
        return y if b is None else y + b

    def transpose(s: Tensor, w: Tensor) -> Tensor:
        return forward(s, w.transpose(1, 2), None)

    return LinearMap(x, weight, bias, forward, transpose)


def _product(name: str, call: OpCall, x: Tensor, weight: Tensor) -> LinearMap:
    """`x @ W`, `W @ x`, `einsum(..., x, W)` or `addmm(b, x, W)` with a constant W."""
    first = call.inputs[1 if name == "addmm" and "bias" in call.named else 0]
    leads = first.edge is not None
    named = call.arguments()

    def forward(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        factors = (x, w) if leads else (w, x)
        y = (
            torch.einsum(named["equation"], *factors)
            if name == "einsum"
            else torch.matmul(*factors)
        )
        return y if b is None else y + b

    def transpose(s: Tensor, w: Tensor) -> Tensor:
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            return torch.autograd.grad(forward(at, w, None), at, s)[0]

    bias = named.get("bias") if name == "addmm" else None
    return LinearMap(x, weight, None if bias is None else wide(bias), forward, transpose)


def _convolution(
    name: str, call: dict[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None
) -> LinearMap:
    transposed = "transpose" in name
    function = getattr(F, name)
    keys = ("stride", "padding", "dilation", "groups") + (("output_padding",) if transposed else ())
    geometry = {k: call[k] for k in keys if k in call}
    dims, groups = weight.ndim - 2, geometry.get("groups", 1)
    stride, dilation = (_each(geometry.get(k, 1), dims) for k in ("stride", "dilation"))
    padding, uneven = _padding(geometry.get("padding", 0), weight, dilation)
    output_padding = _each(geometry.get("output_padding", 0), dims)
    single = x.ndim == dims + 1

    def transpose(s: Tensor, w: Tensor) -> Tensor:
        at, s = (x[None], s[None]) if single else (x, s)
        at = F.pad(at, uneven) if any(uneven) else at
        back: Tensor = torch.ops.aten.convolution_backward(
            s, at, w, None, stride, padding, dilation, transposed, output_padding, groups,
            [True, False, False],
        )[0]  # fmt: skip
        for i, size in enumerate(x.shape[-dims:]):
            back = back.narrow(i - dims, 0, size)
        return back[0] if single else back

    def outputs(scale: Tensor) -> Tensor:
        ones = [1] * dims
        if not transposed:
            return scale.reshape(-1, 1, *ones)
        return scale.reshape(groups, 1, -1, *ones).expand(
            -1, weight.shape[0] // groups, -1, *ones
        ).reshape(weight.shape[0], -1, *ones)  # fmt: skip

    return LinearMap(
        x, weight, bias, lambda x, w, b: function(x, w, b, **geometry), transpose, outputs
    )


def _each(value: Any, dims: int) -> list[int]:
    if isinstance(value, int):
        return [value] * dims
    return list(value) * (dims if len(value) == 1 else 1)


def _padding(value: Any, weight: Tensor, dilation: list[int]) -> tuple[list[int], list[int]]:
    """Padding on both sides, and what "same" adds behind with even kernels, as F.pad takes it."""
    if value == "valid":
        return [0] * len(dilation), []
    if value == "same":
        spans = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        return [s // 2 for s in spans], [n for s in reversed(spans) for n in (0, s % 2)]
    return _each(value, len(dilation)), []

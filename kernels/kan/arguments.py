"""The arguments of Kolmogorov-Arnold attention as one record, and what they must be to fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..errors import KernelError
from .bases import BASE_FUNCTIONS, BASES

Order = Literal["w_phi", "phi_w", "phi_phi", "phi"]
ORDERS = ("w_phi", "phi_w", "phi_phi", "phi")


@dataclass(frozen=True, eq=False)
class Functions:
    """Learned functions phi_pq, p of them summed over each of q numbers."""

    a: Tensor
    b: Tensor
    scale_base: Tensor | None = None
    scale_sp: Tensor | None = None


@dataclass(frozen=True, eq=False)
class KanArguments:
    """What `kan_attention` was called with; its docstring says what each is."""

    q: Tensor
    k: Tensor
    v: Tensor
    a: Tensor
    b: Tensor
    W: Tensor | None = None
    scale_base: Tensor | None = None
    scale_sp: Tensor | None = None
    a2: Tensor | None = None
    b2: Tensor | None = None
    scale_base2: Tensor | None = None
    scale_sp2: Tensor | None = None
    basis: str = "fourier"
    base: str = "zero"
    order: Order = "w_phi"
    simplex: bool = False
    softmax_heads: tuple[int, ...] = ()
    scale: float | None = None

    @property
    def factor(self) -> float:
        """What scores are multiplied by."""
        return self.q.shape[-1] ** -0.5 if self.scale is None else self.scale

    @property
    def first(self) -> Functions:
        return Functions(self.a, self.b, self.scale_base, self.scale_sp)

    @property
    def second(self) -> Functions:
        assert self.a2 is not None
        assert self.b2 is not None
        return Functions(self.a2, self.b2, self.scale_base2, self.scale_sp2)

    @property
    def learned_heads(self) -> list[int]:
        """The heads whose map is learned; the others are softmax."""
        return [h for h in range(self.q.shape[1]) if h not in self.softmax_heads]

    def learned(self) -> KanArguments:
        """The call of the learned heads alone."""
        return self._of(self.learned_heads) if self.softmax_heads else self

    def softmax(self) -> KanArguments:
        """The call of the softmax heads alone; its functions mean nothing."""
        return self._of(list(self.softmax_heads))

    def _of(self, heads: list[int]) -> KanArguments:
        q, k, v = (chosen(x, heads) for x in (self.q, self.k, self.v))
        return replace(self, q=q, k=k, v=v, softmax_heads=(), scale=self.factor)

    def joined(self, learned: Tensor, softmax: Tensor) -> Tensor:
        """Results of both kinds of heads, `b h ..`, in the order of heads."""
        order = [*self.learned_heads, *self.softmax_heads]
        return chosen(torch.cat([learned, softmax], 1), [order.index(h) for h in range(len(order))])


def chosen(x: Tensor, heads: list[int]) -> Tensor:
    """Some heads of `b h ..`, in that order; without an index, which a graph would keep."""
    each = x.unbind(1)
    return torch.stack([each[h] for h in heads], 1)


def check(x: KanArguments) -> None:
    """Raise KernelError for arguments that Kolmogorov-Arnold attention cannot take."""
    for what, name, known in (
        ("basis", x.basis, BASES), ("base function", x.base, BASE_FUNCTIONS),
        ("order", x.order, ORDERS),
    ):  # fmt: skip
        if name not in known:
            raise KernelError(f"there is no {what} {name!r} of learned maps: {', '.join(known)}")
    _heads(x)
    h, m = len(x.learned_heads), x.k.shape[2]
    p = _functions("", x.first, x, h, m if x.order != "phi_w" else None)
    if x.order == "phi" and p != m:
        raise KernelError(
            f"order='phi' maps a row of {m} scores to as many weights, but a has {p}: give a "
            f"h {m} {m} g, or the order that reduces rows"
        )
    _order(x, h, m, p)


def _heads(x: KanArguments) -> None:
    q, k, v = x.q, x.k, x.v
    fits = (
        q.ndim == k.ndim == v.ndim == 4
        and q.shape[:2] == k.shape[:2] == v.shape[:2]
        and q.shape[-1] == k.shape[-1]
        and k.shape[2] == v.shape[2]
    )
    if not fits:
        raise KernelError(
            "kan_attention takes q b h n d, k b h m d and v b h m e, not "
            f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
        )
    if not q.dtype == k.dtype == v.dtype:
        raise KernelError(
            f"q, k and v must be of one dtype, not {q.dtype}, {k.dtype} and {v.dtype}: cast them"
        )
    heads = x.softmax_heads
    if len(set(heads)) != len(heads) or any(not 0 <= i < q.shape[1] for i in heads):
        raise KernelError(
            f"softmax_heads={heads} of {q.shape[1]} heads: give each once, counted from 0"
        )
    if len(heads) == q.shape[1]:
        raise KernelError("all heads are softmax, so that nothing is learned: call attention")


def _functions(mark: str, f: Functions, x: KanArguments, h: int, inputs: int | None) -> int:
    """Check one set of functions of `inputs` numbers, None: any; how many there are of each."""
    a, b = f.a, f.b
    if a.ndim != 4 or b.ndim != 4 or a.shape[:3] != b.shape[:3] or len(a) != h:
        raise KernelError(
            f"a{mark} and b{mark} are h p q g for the {h} learned heads, not {tuple(a.shape)} and "
            f"{tuple(b.shape)}"
        )
    if inputs is not None and a.shape[2] != inputs:
        raise KernelError(
            f"the learned functions read rows of {a.shape[2]} numbers, but these have {inputs}: "
            "the number of tokens is fixed by the weights, give as many"
        )
    sizes = BASES[x.basis].sizes
    wanted = [a.shape[3] if n is None else n for n in sizes]
    if [a.shape[3], b.shape[3]] != wanted or min(wanted) < 1:
        raise KernelError(
            f"basis {x.basis!r} takes {wanted[0]} numbers of a{mark} and {wanted[1]} of b{mark} a "
            f"function, not {a.shape[3]} and {b.shape[3]}"
        )
    for name, scale in (("scale_base", f.scale_base), ("scale_sp", f.scale_sp)):
        if scale is not None and scale.shape != a.shape[:3]:
            raise KernelError(
                f"{name}{mark} must be {tuple(a.shape[:3])} here, not {tuple(scale.shape)}"
            )
    return a.shape[1]


def _order(x: KanArguments, h: int, m: int, p: int) -> None:
    wanted = {"w_phi": (h, m, p), "phi_w": (h, x.a.shape[2], m)}.get(x.order)
    if (x.W is None) != (wanted is None) or (x.W is not None and tuple(x.W.shape) != wanted):
        found = None if x.W is None else tuple(x.W.shape)
        raise KernelError(f"order={x.order!r} takes W of shape {wanted} here, not {found}")
    if x.order == "phi_w" and p != m:
        raise KernelError(f"order='phi_w' gives {p} weights for {m} keys: give a h {m} q g")
    second = x.a2, x.b2
    if x.order != "phi_phi":
        if any(one is not None for one in (*second, x.scale_base2, x.scale_sp2)):
            raise KernelError(f"a2 and b2 are of order='phi_phi', not of {x.order!r}: leave them")
    elif any(one is None for one in second):
        raise KernelError("order='phi_phi' applies two sets of functions: give a2 and b2 as well")
    elif (given := _functions("2", x.second, x, h, p)) != m:
        raise KernelError(f"order='phi_phi' gives {given} weights for {m} keys: give a2 h {m} p g")

"""Which codes can be active: an upper bound by one rounded product, kept for as long as it holds.

An activation is a = w.x + o. For the rounded w~ and x~ and a later w' and o',
a' <= w~.x~ + o + |x - x~| |w| + |x~| |w - w~| + |x| |w' - w| + (o' - o),
where every norm is known. Entries whose bound is not above 0 are inactive, exactly; the others
are computed in full precision. The last two terms are budgets: while all codes stay within
theirs, the list of candidates stays valid, and no product over all rows is needed.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor

_SPARE = 16  # columns added to the product, a multiple of the vector width
_LONG = (0.08, 0.02)  # share of candidates beyond which a list is meant for fewer steps
_MOST = 24  # steps a list is meant for, at most


@dataclass(eq=False)
class Watch:
    """Weights for which a list was made, and how far they may go before it must be made again.

    steps   how many steps the next list is meant for; long lists shorten it
    """

    steps: int = 1
    age: int = 0
    encoder: Tensor | None = None
    offset: Tensor = field(init=False)
    moved: Tensor = field(init=False)
    risen: Tensor = field(init=False)

    def passed(
        self, encoder: Tensor, offset: Tensor, *, anyway: bool = False
    ) -> tuple[Tensor, Tensor] | None:
        """None while all codes are within budget, else new budgets: twice the pace of late.

        A code that stood still may wake, hence at least the mean pace of all.
        """
        if self.encoder is None:
            return torch.zeros_like(offset), torch.zeros_like(offset)
        self.age += 1
        moved, risen = (encoder - self.encoder).norm(dim=1), offset - self.offset
        if not anyway and bool(((moved <= self.moved) & (risen <= self.risen)).all()):
            return None
        ahead, spare = 2 * (self.steps - 1) / self.age, 1e-3 * (self.steps > 1)
        risen = risen.clamp(min=0)
        return (
            ahead * torch.maximum(moved, moved.mean()) + spare,
            ahead * torch.maximum(risen, risen.mean()) + spare,
        )

    def start(self, encoder: Tensor, offset: Tensor, moved: Tensor, risen: Tensor) -> None:
        self.encoder, self.offset, self.age = encoder.clone(), offset, 0
        self.moved, self.risen = moved, risen

    def aim(self, long: bool) -> None:
        self.steps = min(max(self.steps + (-1 if long else 1), 1), _MOST)


@dataclass(eq=False)
class Screen:
    """Candidates among rows `n m` times codes: a long list by a product, a short one within it.

    rows    rounded, with the columns that meet those of the codes
    """

    x: Tensor
    rows: Tensor
    norm: Tensor
    outer: Watch = field(default_factory=Watch)
    inner: Watch = field(default_factory=Watch)
    far: tuple[Tensor, Tensor] = field(init=False)
    close: tuple[Tensor, Tensor] = field(init=False)

    @classmethod
    def of(cls, x: Tensor) -> Screen:
        """1e-4 |x| covers the rounding of sums, 1.02 that of the added columns themselves."""
        _hush()
        rounded = x.to(_fastest(x))
        norm = x.norm(dim=1)
        error = (x - rounded).norm(dim=1) + 1e-4 * norm
        ones = torch.ones_like(norm)
        extra = torch.stack([ones, ones, 1.02 * error + 1e-6, 1.02 * norm], 1).to(rounded.dtype)
        spare = extra.new_zeros(len(x), _SPARE - 4)
        return cls(x, torch.cat([rounded, extra, spare], 1), norm)

    def entries(self, encoder: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, codes and activations of all a > 0, in row order; encoder `k m`, offset `k`.

        What the short list leaves out was either seen in the long one or ruled out by it, so a
        new long list always makes a new short one.
        """
        budget = self.outer.passed(encoder, offset)
        if budget is not None:
            self._find(encoder, offset, *budget)
        near = self.inner.passed(encoder, offset, anyway=budget is not None)
        if near is None:
            row, code, value = self._values(encoder, offset, *self.close)
        else:
            row, code, value = self._values(encoder, offset, *self.far)
            self._narrow(encoder, offset, row, code, value, *near)
        kept = (value > 0).nonzero()[:, 0]
        return row[kept], code[kept], value[kept]

    def _find(self, encoder: Tensor, offset: Tensor, moved: Tensor, risen: Tensor) -> None:
        """The long list, for codes that move and rise by no more than that."""
        bound = self.rows @ _columns(encoder, offset + risen, moved, self.rows.dtype).T
        above = bound.view(torch.int16) > 0 if bound.element_size() == 2 else bound > 0
        places = above.view(-1).nonzero()[:, 0]
        row = places // len(encoder)
        self.far = row, places - row * len(encoder)
        self.outer.start(encoder, offset, moved, risen)
        self.outer.aim(len(places) > _LONG[0] * above.numel())

    def _narrow(
        self,
        encoder: Tensor,
        offset: Tensor,
        row: Tensor,
        code: Tensor,
        value: Tensor,
        moved: Tensor,
        risen: Tensor,
    ) -> None:
        """The short list, from the values of the long one."""
        reach = risen.index_select(0, code)
        reach += self.norm.index_select(0, row) * (1e-4 + moved.index_select(0, code))
        kept = (value + reach > 0).nonzero()[:, 0]
        self.close = row[kept], code[kept]
        self.inner.start(encoder, offset, moved, risen)
        self.inner.aim(len(kept) > _LONG[1] * len(self.x) * len(encoder))

    def _values(
        self, encoder: Tensor, offset: Tensor, row: Tensor, code: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return row, code, dots(self.x, encoder, row, code) + offset.index_select(0, code)


def dots(left: Tensor, right: Tensor, row: Tensor, code: Tensor) -> Tensor:
    """left[row] . right[code] for entries in row order, without gathering either."""
    start = torch.bincount(row, minlength=len(left)).cumsum(0)
    start = torch.cat([start.new_zeros(1), start])
    size = (len(left), len(right))
    none = left.new_zeros(len(row))
    places = torch.sparse_csr_tensor(start, code, none, size, check_invariants=False)
    return torch.sparse.sampled_addmm(places, left, right.T, beta=0.0).values()


def _hush() -> None:
    """Let torch say once per process that its sparse tensors are beta, unheard."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        unit, first = torch.ones(1, 1), torch.zeros(1, dtype=torch.long)
        dots(unit, unit, first, first)


def _columns(encoder: Tensor, offset: Tensor, moved: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounded encoder with the offset in two parts, |w|, and what its error and move can add.

    The second part of the offset is rounded up by what two parts of 8 bits leave, 2^-16.
    """
    rounded = encoder.to(dtype)
    error = 1.02 * ((encoder - rounded).norm(dim=1) + moved)
    high = offset.to(dtype)
    low = offset - high + 2e-5 * offset.abs()
    extra = torch.stack([high, low, 1.02 * encoder.norm(dim=1), error], 1).to(dtype)
    return torch.cat([rounded, extra, extra.new_zeros(len(encoder), _SPARE - 4)], 1)


def _fastest(x: Tensor) -> torch.dtype:
    """bfloat16 where the processor multiplies it natively; the choice never changes a result."""
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    quick = x.device.type == "cpu" and x.dtype == torch.float32 and native()
    return torch.bfloat16 if quick else x.dtype

"""The gates of SeerAttention: scores of key blocks from pooled queries and keys."""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ....probe.errors import OptionError
from ...layers import RmsNorm
from .positions import Rotation

POOLS = ("max", "min", "avg")


class Pools(NamedTuple):
    """What a gate pools of queries and of keys; query is () where it projects single tokens."""

    query: tuple[str, ...]
    key: tuple[str, ...]
    averaged: bool = False  # a decode gate that averages the heads of a group first

    @property
    def decodes(self) -> bool:
        """Whether the gate serves single queries, as of decoding."""
        return not self.query


def pools_of(name: str) -> Pools:
    """What the name of a gate says, as Qavg_Kmaxminavg. Raises OptionError for other names."""
    some = "(?=max|min|avg)((?:max)?(?:min)?(?:avg)?)"
    found = re.fullmatch(f"Q(?:{some}|(proj|avgproj))_K{some}", name)
    if found is None:
        raise OptionError(
            f"seerattn_gate_type {name!r} names no gate: write Q and K each with some of max, min "
            "and avg in this order, as Qavg_Kmaxminavg, or Qproj or Qavgproj for a decode gate"
        )
    query, projection, key = (part or "" for part in found.groups())
    first, second = (tuple(p for p in POOLS if p in part) for part in (query, key))
    return Pools(first, second, projection == "avgproj")


class HeadLinear(nn.Module):
    """A linear layer of each head, without bias: `b h n c` -> `b h n g`."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal weights that keep the size of what comes in."""
        nn.init.normal_(self.weight, std=self.weight.shape[-2] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class PrefillGate(nn.Module):
    """Scores of all pairs of blocks of a prompt, before softmax.

    One pool of queries as wide as the gate needs no projection; keys then have one for each query
    head. `double` keeps both.
    """

    def __init__(
        self, pools: Pools, heads: int, groups: int, dim: int, width: int, *, double: bool
    ) -> None:
        super().__init__()
        self.pools, self.heads, self.width = pools, heads, width
        both = double or len(pools.query) > 1 or width != dim
        self.mask_linear_q = HeadLinear(heads, len(pools.query) * dim, width) if both else None
        self.mask_linear_k = HeadLinear(groups if both else heads, len(pools.key) * dim, width)

    def forward(
        self, q: Tensor, k: Tensor, turn: Rotation, block: int, lengths: Tensor | None = None
    ) -> Tensor:
        """q: b h t d, k: b g t d before positions -> `b h n n`, lowest float above the diagonal.

        lengths   `b`, tokens of each sequence; those behind are no part of any pool
        """
        q = pooled(q, self.pools.query, block, lengths)
        k = pooled(k, self.pools.key, block, lengths)
        if self.mask_linear_q is not None:
            q = self.mask_linear_q(q)
        k = self.mask_linear_k(_for_heads(k, len(self.mask_linear_k.weight)))
        places = torch.arange(q.shape[2], device=q.device)[None] * block
        q, k = turn(q, places), _for_heads(turn(k, places), self.heads)
        scores = q @ k.mT * self.width**-0.5
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        return scores.masked_fill(later, torch.finfo(scores.dtype).min)


class DecodeGate(nn.Module):
    """Scores of full key blocks for one query: SeerAttention-R, one for each head of keys."""

    def __init__(
        self, pools: Pools, heads: int, groups: int, dim: int, width: int, eps: float | None
    ) -> None:
        super().__init__()
        self.pools, self.groups, self.width = pools, groups, width
        shape = (groups, dim, width) if pools.averaged else (groups, heads // groups, dim, width)
        self.attngate_linear_q = HeadLinear(*shape)
        self.attngate_linear_k = HeadLinear(groups, len(pools.key) * dim, width)
        self.attngate_qnorm = None if eps is None else RmsNorm(width, eps)
        self.attngate_knorm = None if eps is None else RmsNorm(width, eps)

    def query(self, q: Tensor, places: Tensor, turn: Rotation) -> Tensor:
        """q: b h 1 d before positions -> `b g 1 w`."""
        q = torch.unflatten(q, 1, (self.groups, -1))
        if self.pools.averaged:
            q = self.attngate_linear_q(q.mean(2))
        else:
            q = self.attngate_linear_q(q).sum(2)
        return turn(q if self.attngate_qnorm is None else self.attngate_qnorm(q), places)

    def blocks(self, k: Tensor, turn: Rotation, block: int, first: int = 0) -> Tensor:
        """Keys of full blocks, `b g t d` before positions -> `b g n w`; `first` is their number."""
        k = self.attngate_linear_k(pooled(k, self.pools.key, block, None))
        k = k if self.attngate_knorm is None else self.attngate_knorm(k)
        return turn(k, (torch.arange(k.shape[2], device=k.device)[None] + first) * block)

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        """Scores before softmax, `b g 1 n`, of a projected query and projected blocks."""
        return q @ k.mT * self.width**-0.5


def pooled(x: Tensor, pools: tuple[str, ...], block: int, lengths: Tensor | None) -> Tensor:
    """Largest, least and mean of runs of tokens: `b h t d` -> `b h n (pools d)`.

    The last run may be shorter and is averaged over what it has; a run without tokens gives 0.
    """
    b, _, t, _ = x.shape
    count = -(-t // block)
    rest = count * block - t
    x = torch.unflatten(nn.functional.pad(x, (0, 0, 0, rest)), 2, (count, block))
    ends = torch.full((b,), t, device=x.device) if lengths is None else lengths
    tokens = torch.arange(count * block, device=x.device).reshape(count, block)
    held = (tokens < ends[:, None, None])[:, None, :, :, None]
    some = held.any(3)
    parts = {
        "max": lambda: x.masked_fill(~held, -torch.inf).amax(3),
        "min": lambda: x.masked_fill(~held, torch.inf).amin(3),
        "avg": lambda: x.masked_fill(~held, 0).sum(3) / held.sum(3).clamp(min=1),
    }
    return torch.cat([parts[name]().masked_fill(~some, 0) for name in pools], -1)


def _for_heads(x: Tensor, heads: int) -> Tensor:
    return x.repeat_interleave(heads // x.shape[1], 1) if x.shape[1] != heads else x

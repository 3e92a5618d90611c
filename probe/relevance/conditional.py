"""Conditional relevance: what a pass keeps of what arrives at some sites, and which sites hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd.graph import Node

from ..errors import ProbeError
from ..ops import Edge
from ..sites import Site, parse
from ..trace import Trace, index_dim

Masks = dict[Node, list[tuple[int, Tensor]]]


def masks(trace: Trace, through: Sequence[str]) -> Masks:
    """By node and output, ones at the channels or heads that relevance may pass.

    Several addresses at one site let all of theirs pass. Raises ProbeError, SiteError.
    """
    chosen: dict[Site, list[int]] = defaultdict(list)
    for address in through:
        pattern = parse(address)
        if pattern.index is None:
            raise ProbeError(
                f"relevance through {address!r} names no channel or head; write one as in "
                "'features.10[17]' or 'blocks.3.attn:heads.6'"
            )
        for site in trace.where(replace(pattern, index=None)):
            chosen[site].append(pattern.index)
    by_node: Masks = defaultdict(list)
    for site, indices in chosen.items():
        value = trace[site]
        if value.edge is None:
            raise ProbeError(f"no relevance passes {site}: it does not depend on the input")
        dim = index_dim(replace(site, axes=value.axes), value.act.ndim)
        mask = torch.zeros([1 if i != dim else n for i, n in enumerate(value.act.shape)])
        for index in indices:
            value.at(index)
            mask.select(dim, index).fill_(1)
        by_node[value.edge[0]].append((value.edge[1], mask.to(value.act.device)))
    return by_node


def edges(trace: Trace, hold: Sequence[str]) -> set[Edge]:
    """Where the values of these sites come from.

    Raises ProbeError for a channel of one, SiteError for sites that nobody saw.
    """
    for address in hold:
        if parse(address).index is not None:
            raise ProbeError(
                f"relevance holds whole values, not {address!r}: name the site without its index"
            )
    values = (value for address in hold for value in trace.where(parse(address)).values())
    return {value.edge for value in values if value.edge is not None}

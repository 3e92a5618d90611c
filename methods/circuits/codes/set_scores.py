"""Scores of heads and edges from discrete codes, by counting sets (O'Neill and Bui, 2405.12522).

What they can claim: that a head writes codes for positives which it never writes for negatives.
What they cannot: that the model uses them. On toy models the node score was level with controls
that hold no task information (labels split at random, an untrained encoder, the number of distinct
codes, the norm of the head's output); on SmolLM2-135M it beat its label permutations slightly in
average precision, on indirect objects .22 against .11, where attribution patching reached .93.
Read a score only beside those controls, as score minus null.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ....probe.errors import OptionError

_AT_ONCE = 1 << 24  # numbers held at a time


def node_score(codes: Tensor, labels: Tensor, *, normalise: bool = False) -> Tensor:
    """u_h = |codes of head h in positives, minus those in negatives|, `... h`.

    codes      integers `... e h`, leading dimensions (seeds) free; -1, the dead code, is a code
    labels     bool `e`, or `p e` for many labellings at once; the result is then `p ... h`
    normalise  divide by the number of distinct codes over all examples; off as published. It
               lowered the AUC in five of six settings tried.
    """
    rows = _labels(codes, labels)
    flat = codes.reshape(-1, *codes.shape[-2:])
    groups, owner = _groups(flat)
    places = flat.shape[0] * flat.shape[2]
    total = torch.bincount(groups.flatten(), minlength=len(owner))
    step = max(1, _AT_ONCE // flat.numel())
    scores = [_unique(groups, owner, total, part, places) for part in rows.split(step)]
    score = torch.cat(scores).view(len(rows), *codes.shape[:-2], codes.shape[-1])
    if normalise:
        score = score / diversity(codes)
    return score if labels.dim() == 2 else score[0]


def unique_to_negative(codes: Tensor, labels: Tensor, *, normalise: bool = False) -> Tensor:
    """The node score with the labels exchanged: a control that should fail, and often does not."""
    return node_score(codes, ~labels, normalise=normalise)


def diversity(codes: Tensor) -> Tensor:
    """The number of distinct codes of each head over all examples, labels ignored: `... h`."""
    ordered = codes.sort(-2).values
    return 1.0 + (ordered.diff(dim=-2) != 0).sum(-2)


def edge_score(
    codes: Tensor,
    labels: Tensor,
    layers: Tensor,
    *,
    normalise: bool = False,
    both: bool = False,
) -> Tensor:
    """e(h1, h2) = number of code pairs seen together in positives and never in negatives.

    codes `... e h`, labels bool `e`, layers `h`; result `... h h`, from row to column.
    normalise  divide by the distinct pairs in positives plus those in negatives
    both       as published: both directions, pairs within a layer and of a head with itself (its
               node score); otherwise only edges from a lower to a higher layer, others are 0
    A positive counts if neither a negative nor an earlier positive has the same pair, which is a
    matrix product of "same code" tables per example: memory h h + e h, never codes squared.
    Co-occurrence is no evidence of a connection: the score holds no trace of what flows from h1.
    """
    _labels(codes, labels)
    if labels.dim() != 1 or layers.shape != codes.shape[-1:]:
        raise OptionError(
            f"edge scores take labels `e` and one layer per head, not labels of "
            f"{tuple(labels.shape)} and layers of {tuple(layers.shape)} for codes of "
            f"{tuple(codes.shape)}"
        )
    flat = codes.reshape(-1, *codes.shape[-2:])
    score = torch.stack([_edges(c[labels], c[~labels], normalise) for c in flat])
    if not both:
        score = score * (layers[:, None] < layers)
    return score.view(*codes.shape[:-2], *score.shape[-2:])


def upstream_edge_nodes(edge: Tensor) -> Tensor:
    """Heads counted among the strongest pairs, as the paper's edge figures were made: `... h`.

    Pairs of `edge` `... h h` in descending order (equal ones in row order) are written as one
    sequence of heads; the first h h // 2 entries are counted per head. A node score, not an edge
    score, whatever its name: report it as such.
    """
    h = edge.shape[-1]
    order = edge.flatten(-2).argsort(dim=-1, descending=True, stable=True)
    heads = torch.stack([order // h, order % h], -1).flatten(-2)[..., : h * h // 2]
    ones = torch.ones_like(heads, dtype=torch.float32)
    return edge.new_zeros(*edge.shape[:-1], dtype=torch.float32).scatter_add_(-1, heads, ones)


def _labels(codes: Tensor, labels: Tensor) -> Tensor:
    """Labels as `p e`, after checks."""
    if codes.dim() < 2 or codes.is_floating_point() or codes.is_complex():
        raise OptionError(
            f"codes must be integers `... e h`, not {tuple(codes.shape)} {codes.dtype}: "
            "pass what encode returned"
        )
    if labels.dtype != torch.bool or labels.dim() not in (1, 2):
        raise OptionError(
            f"labels must be bool `e` or `p e`, not {tuple(labels.shape)} {labels.dtype}: "
            "write True for positives"
        )
    if labels.shape[-1] != codes.shape[-2]:
        raise OptionError(f"{labels.shape[-1]} labels were given for {codes.shape[-2]} examples")
    rows = labels.reshape(-1, labels.shape[-1])
    if not bool((rows.any(1) & ~rows.all(1)).all()):
        raise OptionError("labels hold one class only: a score needs positives and negatives")
    return rows


def _groups(codes: Tensor) -> tuple[Tensor, Tensor]:
    """The number of each (place, code) `s e h`, and the place (seed, head) of each number."""
    s, _, h = codes.shape
    shifted = codes.long() - codes.min()
    size = int(shifted.max()) + 1
    place = torch.arange(s * h, device=codes.device).view(s, 1, h)
    key = place * size + shifted
    used = torch.zeros(s * h * size, dtype=torch.bool, device=codes.device)
    if used.numel() > _AT_ONCE:
        distinct, number = torch.unique(key, return_inverse=True)
        return number, distinct // size
    used[key.flatten()] = True
    number = used.cumsum(0) - 1
    return number[key], used.nonzero()[:, 0] // size


def _unique(groups: Tensor, owner: Tensor, total: Tensor, labels: Tensor, places: int) -> Tensor:
    """Codes in positives only, `p places`: groups whose examples are all positive."""
    spread = labels.T.float()[None, :, None].expand(*groups.shape, len(labels))
    seen = torch.zeros(len(owner), len(labels), device=groups.device)
    seen.index_add_(0, groups.flatten(), spread.reshape(-1, len(labels)))
    alone = (seen == total[:, None]).float()
    score = torch.zeros(places, len(labels), device=groups.device)
    return score.index_add_(0, owner, alone).T


def _edges(positive: Tensor, negative: Tensor, normalise: bool) -> Tensor:
    """Edge scores `h h` of one seed."""
    score = _fresh(positive, negative)
    if normalise:
        none = positive[:0]
        score = score / (_fresh(positive, none) + _fresh(negative, none))
    return score


def _fresh(codes: Tensor, banned: Tensor) -> Tensor:
    """Distinct pairs of `codes` `e h` that no row of `banned` holds, `h h`."""
    e, h = codes.shape
    count = torch.zeros(h, h, device=codes.device)
    step = max(1, _AT_ONCE // (h * (h + e + len(banned))))
    others = torch.cat([banned, codes])
    for start in range(0, e, step):
        block = codes[start : start + step]
        same = (block[:, None] == others[: len(banned) + start + len(block)]).float()
        same[:, len(banned) + start :] *= same.new_ones(len(block), len(block)).tril(-1)[..., None]
        shared = same.mT @ same
        count += (shared == 0).sum(0)
    return count

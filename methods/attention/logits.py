"""The scores of attention before their softmax: how many directions make them."""

from __future__ import annotations

import torch
from torch import Tensor

from ...probe.attribution import Heads, head_method

MORE = ("bias", "rows", "columns", "position")  # what else adds up to scores


@head_method("logit_rank")
def logit_rank(heads: Heads, *, effective: bool = False) -> Tensor:
    """The rank of q k' of each head: at most the channels of a query, whatever the softmax makes.

    Singular values below max(n, m) eps of the largest count as zero, eps that of the queries.
    effective  exp of the entropy of the singular values' shares instead (Roy and Vetterli 2007)
    NaN where q and k are not known, and where more than their product makes the scores.
    """
    if heads.op is None or any(heads.op.argument(name) is not None for name in MORE):
        return heads.nothing()
    q, k = heads.op.argument("q"), heads.op.argument("k")
    if q is None or k is None:
        return heads.nothing()
    tiny = max(heads.shape[2:]) * torch.finfo(q.dtype).eps
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    left, right = (torch.linalg.qr(x.double(), mode="r").R for x in (q, k))
    values = torch.linalg.svdvals(left @ right.mT)
    values = values * (values > tiny * values[..., :1])
    if not effective:
        return (values > 0).sum(-1).double()
    shares = values / values.sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1).exp()

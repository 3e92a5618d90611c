"""What mixers with a state weigh and keep: Taylor attention's sums, the decays of RWKV."""

from __future__ import annotations

import torch
from torch import Tensor

from ...kernels.taylor import taylor_attention, taylor_denominator
from ...kernels.wkv import wkv
from ...probe.attribution import Heads, head_method


@head_method("mean_weight")
def mean_weight(heads: Heads) -> Tensor:
    """The mean over queries of what Taylor attention divides by, for each token seen.

    mean_t 1/t sum_{s<=t} 1 + x_ts + x_ts^2/2: 1 where scores x are near zero and all tokens count
    alike, large where the squares of scores rule, never below 1/2. NaN for other heads.
    """
    op = heads.op
    if op is None or op.mixing is not taylor_attention.face.mixing:
        return heads.nothing()
    q, k = (op.held[name].act for name in "qk")
    sums = taylor_denominator(q, k, scale=op.held.get("scale"))
    seen = torch.arange(1, sums.shape[-1] + 1, device=sums.device)
    return (sums / seen).mean(-1)


@head_method("decay_length")
def decay_length(heads: Heads) -> Tensor:
    """Tokens after which a channel of RWKV keeps 1/e of a token's weight: -1 / decay.

    Channels take the place of heads; infinite where nothing decays. NaN for other heads.
    """
    op = heads.op
    if op is None or op.mixing is not wkv.face.mixing:
        return heads.nothing()
    decay: Tensor = op.held["decay"].act
    return (1 / decay.abs()).expand(heads.shape[:2])

"""The losses of Sparsifiner's two phases, against a teacher with dense attention.

In the paper's schedule 5 epochs of "attn_recon" minimise `reconstruction_loss`, then 45 of
"cls_distill" minimise `distillation_loss`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ....probe.errors import ModelError
from .model import Parts


def reconstruction_loss(
    estimates: Sequence[Tensor], maps: Sequence[Tensor], *, weight: float = 0.01
) -> Tensor:
    """weight mean over layers of sum (A - softmax)^2, without the class token's rows.

    estimates  `b h n-1 n`, see `Sparsifiner.parts`
    maps       the teacher's attention, `b h n n`
    Raises ModelError where layers, heads or tokens differ.
    """
    rows = [share[..., 1:, :] for share in maps]
    have, want = ([tuple(x.shape) for x in some] for some in (estimates, rows))
    if not have or have != want:
        raise ModelError(
            f"estimates of attention, {len(have)} of {have[:1]}, are to be compared with maps of "
            f"{len(want)} layers, without their first rows of {want[:1]}: give a teacher of the "
            "same depth, heads and tokens"
        )
    losses = [F.mse_loss(a, b, reduction="sum") for a, b in zip(estimates, rows, strict=True)]
    return weight * torch.stack(losses).mean()


def distillation_loss(
    parts: Parts,
    labels: Tensor,
    logits: Tensor,
    features: Tensor,
    *,
    class_weight: float = 1.0,
    logit_weight: float = 0.5,
    token_weight: float = 0.5,
) -> Tensor:
    """Cross-entropy + KL(teacher || student) of logits + squared error of the last patch tokens.

    labels    class numbers `b`, or shares `b classes`
    logits    the teacher's, and its patch tokens behind the last norm, `b n-1 c`
    The mean squared error is over the tokens that are left.
    """
    own, wanted = parts.features, features
    if parts.kept is not None:
        own, wanted = own[parts.kept[:, 1:]], wanted[parts.kept[:, 1:]]
    classes = F.cross_entropy(parts.logits, labels)
    student, teacher = parts.logits.log_softmax(-1), logits.log_softmax(-1)
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    tokens = F.mse_loss(own, wanted)
    return class_weight * classes + logit_weight * divergence + token_weight * tokens

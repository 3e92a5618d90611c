"""Code attribution: the score from codes that does beat its controls."""

from __future__ import annotations

import torch
from torch import Tensor

from ....probe.attribution import Count
from ....probe.errors import OptionError
from ..codes import Kind, centroids, coder, residual_coordinates
from ..evidence import Evidence
from ..score import Score, circuit_method, from_pairs
from .attribution_patching import slope


@circuit_method("code_attr", needs=("activations", "gradient"))
def code_attribution(
    evidence: Evidence,
    *,
    codes: Count = 64,
    kind: Kind = "kmeans",
    cross: bool = True,
    steps: Count = 1,
    seed: int = 0,
) -> Score:
    """Attribution patching through a dictionary: how much of it a head's discrete codes carry.

    Each head's outputs at all positions become codes (k-means in residual-stream coordinates).
    With c(z) the centroid of the code of z,

        score = |mean over pairs of sum over positions of gradient . (c(clean z) - c(corrupt z))|.

    cross   fit the codes on one half of the pairs and score the other, then the reverse
    steps   points of the integrated gradient, as in `attribution`
    With one code for every point and cross=False it equals attribution patching; with few codes it
    says what is left when a head may only speak in them. It is a first-order statement about use,
    like attribution patching, and no better a ranking. Average precision on SmolLM2-135M, own
    prompts (indirect objects 200 pairs, greater-than 120, docstring 64): .84 .85 .77 with 64 codes,
    .82 .81 .76 with 32, attribution patching .86 .88 .79. Tried and left out: codes of the
    difference (32: .74 .84 .78), coordinates weighted by gradients (32: .84 .87 .71).
    """
    count = len(evidence.pairs)
    if cross and count < 4:
        raise OptionError(f"cross-fitted codes need at least 4 pairs, not {count}")
    change = torch.zeros_like(evidence.clean.z)
    weight = residual_coordinates(evidence.outputs.weight)
    half = evidence.pair % 2 == 0
    folds = [(half, ~half), (~half, half)] if cross else [(half | True, half | True)]
    for fold, (fit, use) in enumerate(folds):
        change[use] = _quantised(evidence, fit, use, weight, codes, kind, seed + fold)
    contributions = evidence.sum_pairs((slope(evidence, steps) * change).sum(-1))
    return from_pairs(contributions, seed=seed)


def _quantised(
    evidence: Evidence, fit: Tensor, use: Tensor, weight: Tensor, codes: int, kind: Kind, seed: int
) -> Tensor:
    """Centroid of the corrupt minus centroid of the clean code at the tokens to use, `t h d`."""
    z = torch.cat([evidence.clean.z[fit], evidence.corrupt.z[fit]]).transpose(0, 1).contiguous()
    encode = coder(torch.bmm(z, weight), codes, kind, seed=seed)
    near = encode(torch.bmm(z, weight))
    table = int(near.max()) + 1
    if kind == "kmeans":
        table = max(table, min(codes, z.shape[1]))
    middle, seen = centroids(z, near, table)
    sides = []
    for side in (evidence.corrupt, evidence.clean):
        outputs = side.z[use].transpose(0, 1).contiguous()
        code = encode(torch.bmm(outputs, weight)).clamp(max=table - 1)
        place = code[..., None].expand(-1, -1, outputs.shape[-1])
        code_seen = seen.gather(1, code)[..., None]
        sides.append(torch.where(code_seen, middle.gather(1, place), outputs))
    return (sides[0] - sides[1]).transpose(0, 1)

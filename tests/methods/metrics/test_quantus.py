"""Scores of maps beside Quantus, run here in float64.

Quantus wants opencv-python, which fills the same folder as the opencv-python-headless that we
need, so it is no part of the test environment: these tests run where it lies beside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fill import image
from foreign import import_foreign
from torch import Tensor

from limelight.methods.metrics.complexity import complexity, effective_complexity, sparseness
from limelight.methods.metrics.localisation import (
    auc,
    energy_pointing,
    pointing,
    relevance_mass,
    relevance_rank,
    top_k,
)

SCORES: dict[str, tuple[dict[str, Any], Callable[[Tensor, Tensor], Tensor]]] = {
    "PointingGame": ({}, lambda a, m: pointing(a, m, tolerance=0)),
    "RelevanceMassAccuracy": ({}, lambda a, m: relevance_mass(a, m, part="signed")),
    "RelevanceRankAccuracy": ({}, relevance_rank),
    "TopKIntersection": ({"k": 100}, lambda a, m: top_k(a, m, k=100)),
    "AUC": ({}, auc),
    "AttributionLocalisation": ({"positive_attributions": True}, energy_pointing),
    "Sparseness": ({}, lambda a, m: sparseness(a)),
    "Complexity": ({}, lambda a, m: complexity(a)),
    "EffectiveComplexity": ({"eps": 0.5}, lambda a, m: effective_complexity(a, eps=0.5)),
}


def drawn() -> tuple[Tensor, Tensor]:
    """Six maps with a bright spot each, and masks around other places."""
    draw, maps = np.random.RandomState(3), image((6, 48, 48), 3).astype(np.float64)
    y, x = np.mgrid[:48, :48]
    masks = np.zeros((6, 48, 48), bool)
    for n, (at_y, at_x) in enumerate(draw.randint(8, 40, (6, 2))):
        maps[n] += 6 * np.exp(-((y - at_y) ** 2 + (x - at_x) ** 2) / 60)
        top, left = draw.randint(2, 24, 2)
        masks[n, top : top + 15, left : left + 20] = True
    return torch.from_numpy(maps), torch.from_numpy(masks)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SCORES)
def test_scores_equal_quantus(name: str) -> None:
    quantus = import_foreign("quantus")
    options, ours = SCORES[name]
    maps, masks = drawn()
    quiet = {"disable_warnings": True, "display_progressbar": False}
    metric = getattr(quantus, name)(abs=False, normalise=False, **quiet, **options)
    # Quantus takes sizes before it scores, and these three ask for them.
    sizes = name in ("Sparseness", "Complexity", "EffectiveComplexity")
    planes = (maps.abs() if sizes else maps)[:, None].numpy()
    theirs = metric.evaluate_batch(
        x_batch=planes, a_batch=planes, s_batch=masks[:, None].numpy()
    )  # fmt: skip
    wanted = torch.as_tensor(np.asarray(theirs, dtype=np.float64)).flatten()
    torch.testing.assert_close(ours(maps, masks).double(), wanted, rtol=1e-6, atol=1e-9)

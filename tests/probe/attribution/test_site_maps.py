"""Maps of methods at sites as results: what they cover, and what a reader must be told."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import limelight as ll
from limelight.probe.attribution.site_maps import NOT_FINITE, extent_of


def test_a_map_that_is_not_finite_says_so() -> None:
    """Relevance may overflow in a deep network; the sample that is sound says nothing."""

    def inverse(act: torch.Tensor) -> torch.Tensor:
        return 1 / act.sum(1)

    method = ll.method("inverse_of_test", sites="input")(inverse)
    x = torch.ones(2, 3, 4, 4)
    x[1, :, 2, 2] = 0
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    sound, torn = ll.maps(net, x, method, target=0)
    assert NOT_FINITE not in sound.about.cautions
    assert NOT_FINITE in torn.about.cautions
    assert torn.values.isinf().sum() == 1


@pytest.mark.parametrize(
    ("axes", "shape", "want"),
    [
        ("y x", (7, 7), (0.0, 0.0, 64.0, 32.0)),
        ("c y x", (3, 7, 7), (0.0, 0.0, 64.0, 32.0)),
        ("t", (9,), (0.0, 100.0)),
        ("n", (5,), (0.0, 5.0)),
        ("c", (6,), (0.0, 6.0)),
        ("h", (4,), ()),
    ],
)
def test_what_a_map_covers(axes, shape, want) -> None:
    assert extent_of(axes, {"b": 2, "c": 3, "y": 64, "x": 32, "t": 100}, shape) == want

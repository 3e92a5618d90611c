"""Every model of the zoo against every capability."""

from __future__ import annotations

import pytest
import torch
from matrix import CAPABILITIES, SMALL, NotForThis


@pytest.mark.parametrize("title", CAPABILITIES)
@pytest.mark.parametrize("small", SMALL, ids=lambda small: small.name)
def test_capability(small, title):
    torch.set_num_threads(1)
    try:
        CAPABILITIES[title](small, small.build())
    except NotForThis as reason:
        pytest.skip(f"{small.name}: {reason}")

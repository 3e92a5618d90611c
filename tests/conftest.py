"""What every test runs under."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Sums have one order on every machine."""
    torch.set_num_threads(1)

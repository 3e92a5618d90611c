"""Golden cases and shared data for tests: where they lie and how they are compared."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

TESTS = Path(__file__).parent.parent


def shared_dir() -> Path:
    """The folder with shared photos and weights; skips the test where there is none.

    The variable LIMELIGHT_SHARED names it, else it lies beside the repository.
    """
    found = Path(os.environ.get("LIMELIGHT_SHARED", TESTS.parent.parent / "shared"))
    if not found.is_dir():
        pytest.skip("shared data absent: set LIMELIGHT_SHARED to its folder")
    return found


@dataclass(frozen=True)
class Golden:
    """One golden case: its description and its arrays."""

    case: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def entry(self, key: str) -> dict[str, Any]:
        """What the case says of one of its outputs."""
        return next(entry for entry in self.case["outputs"] if entry["key"] == key)

    def difference(self, key: str, found: Tensor) -> float:
        """The largest difference over the stored values."""
        shape = self.entry(key)["shape"]
        assert list(found.shape) == shape, (key, found.shape, shape)
        want = torch.from_numpy(self.arrays[key]).flatten().double()
        got = found.detach().flatten().double()[: len(want)]
        return float((got - want).abs().max())

    def within(self, key: str, found: Tensor, *, rtol: float, atol: float) -> None:
        """Assert that stored values agree within rtol and atol times max(1, their std)."""
        entry = self.entry(key)
        assert list(found.shape) == entry["shape"], (key, found.shape, entry["shape"])
        want = torch.from_numpy(self.arrays[key]).flatten().double()
        got = found.detach().flatten().double()[: len(want)]
        atol *= max(1.0, entry["std"])
        torch.testing.assert_close(got, want, rtol=rtol, atol=atol, msg=lambda m: f"{key}: {m}")

    def worst(self, key: str, found: Tensor) -> float:
        """The largest difference over the stored values, relative to max(1, absmax)."""
        size = self.entry(key).get("absmax", float(abs(self.arrays[key]).max()))
        return self.difference(key, found) / max(1.0, size)

    def close(self, key: str, found: Tensor, tolerance: float = 1e-4) -> None:
        """Assert that stored values, the first ones and spread ones, agree within a std's share."""
        entry = self.entry(key)
        assert list(found.shape) == entry["shape"], (key, found.shape, entry["shape"])
        got = found.detach().flatten().double()
        want = torch.from_numpy(self.arrays[key]).flatten().double()
        atol = tolerance * max(entry.get("std", float(want.std())), 1e-3)
        torch.testing.assert_close(got[: len(want)], want, rtol=tolerance, atol=atol)
        spread = self.arrays.get(entry.get("spread_key", ""))
        if spread is not None:
            places = torch.arange(len(spread)) * len(got) // len(spread)
            want = torch.from_numpy(spread).double()
            torch.testing.assert_close(got[places], want, rtol=tolerance, atol=atol)


def golden(name: str) -> Golden:
    """The case `tests/parity/<name>.json` and its arrays."""
    path = TESTS / "parity" / name
    case = json.loads(path.with_name(f"{name}.json").read_text())
    with np.load(path.with_name(f"{name}.npz")) as arrays:
        return Golden(case, dict(arrays))


def outputs(model: nn.Module, x: Tensor, paths: dict[str, str]) -> dict[str, Tensor]:
    """Run the model; the outputs of the modules at `paths` by key, and "logits"."""
    found: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(path).register_forward_hook(
            lambda _m, _x, y, key=key: found.update({key: y[0] if isinstance(y, tuple) else y})
        )
        for key, path in paths.items()
    ]
    with torch.no_grad():
        found["logits"] = model(x)
    for handle in handles:
        handle.remove()
    return found

"""What every test runs under."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

# The same examples on every machine, however slow it is.
settings.register_profile(
    "limelight",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("limelight")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Sums have one order on every machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _names_of_tests() -> Iterator[None]:
    """What a test registers, methods, metrics and tasks, is taken back when it ends."""
    before = {id(registry): set(registry._by_name) for registry in _registries()}
    yield
    for registry in _registries():
        for named in [*registry._by_name.values()]:
            ours = named.function.__module__.startswith("limelight.")  # loaded at their first use
            if not ours and named.name not in before.get(id(registry), ()):
                registry.remove(named.name)


def _registries() -> list[Any]:
    """Those whose modules are imported already; no test waits for the others."""
    homes = (("probe.attribution", "METHODS"), ("methods.metrics.registry", "METRICS"),
             ("methods.circuits.tasks.registry", "TASKS"))  # fmt: skip
    modules = ((sys.modules.get(f"limelight.{home}"), name) for home, name in homes)
    return [getattr(module, name) for module, name in modules if hasattr(module, name)]

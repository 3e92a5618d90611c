"""limelight shows what a trained network looks at and which of its parts do the work."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "probe.calls": ("ledger", "maps", "patch", "plan", "trace"),
    "probe.probe": ("Probe",),
    "probe.site": ("Site",),
    "probe.mark": ("mark",),
    "probe.edit": ("add", "freeze", "mean", "scale", "swap", "zero"),
    "probe.target": (
        "Target",
        "contrast",
        "label",
        "margin",
        "pixel",
        "ranked",
        "region",
        "similar",
        "token",
        "top",
    ),
    "probe.results": ("Maps", "SaliencyMap"),
    "probe.registry": (
        "circuit_method",
        "list_methods",
        "method",
        "pass_method",
        "path_method",
        "use",
    ),
    "probe.adapter": ("Adapter", "adapter"),
    "probe.errors": ("LimelightError",),
    "methods": ("combine", "foci"),
    "methods.circuits.circuit": ("Circuit", "circuit"),
    "methods.circuits.pairs": ("Pair", "Pairs"),
    "methods.circuits.tasks": ("list_tasks", "picture_pairs", "task"),
    "models": ("images", "list_models", "load", "preprocess", "read"),
    "reports": ("explain",),
    "reports.circuit_page": ("circuit_report",),
    "reports.run": ("run",),
    "reports.score": ("score",),
    "reports.sources": ("samples",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from .methods import combine, foci
    from .methods.circuits.circuit import Circuit, circuit
    from .methods.circuits.pairs import Pair, Pairs
    from .methods.circuits.tasks import list_tasks, picture_pairs, task
    from .models import images, list_models, load, preprocess, read
    from .probe.adapter import Adapter, adapter
    from .probe.calls import ledger, maps, patch, plan, trace
    from .probe.edit import add, freeze, mean, scale, swap, zero
    from .probe.errors import LimelightError
    from .probe.mark import mark
    from .probe.probe import Probe
    from .probe.registry import (
        circuit_method,
        list_methods,
        method,
        pass_method,
        path_method,
        use,
    )
    from .probe.results import Maps, SaliencyMap
    from .probe.site import Site
    from .probe.target import (
        Target,
        contrast,
        label,
        margin,
        pixel,
        ranked,
        region,
        similar,
        token,
        top,
    )
    from .reports import explain
    from .reports.circuit_page import circuit_report
    from .reports.run import run
    from .reports.score import score
    from .reports.sources import samples


def __getattr__(name: str) -> Any:
    """Public names come from their modules on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'limelight' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

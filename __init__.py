"""limelight shows what a trained network looks at and which of its parts do the work."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "probe.engine": "inputs ledger maps patch plan trace",
    "probe.probe": "Probe",
    "probe.sites": "Adapter Shape Site adapter",
    "probe.mark": "mark",
    "probe.trace": "Trace add freeze mean scale swap zero",
    "probe.targets": "Target box choice contrast difference label margin peak pixel ranked region "
    "similar token top",
    "probe.relevance": "Ledger",
    "probe.results": "Maps SaliencyMap",
    "probe.attribution": "head_method list_methods method pass_method path_method use",
    "probe.errors": "LimelightError",
    "methods": "combine foci",
    "methods.circuits": "Circuit circuit circuit_method",
    "methods.circuits.tasks": "Pair Pairs list_tasks picture_pairs task task_maker",
    "methods.metrics": "list_metrics metric",
    "models": "example images list_models load preprocess read",
    "reports.explanation": "explain",
    "reports.circuit_page": "circuit_report",
    "reports.runs": "run",
    "reports.scoring": "score",
    "reports.datasets": "mqar samples",
    "reports.recall_page": "recall_report",
    "reports.tiles_page": "tile_visits",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from .methods import combine, foci
    from .methods.circuits import Circuit, circuit, circuit_method
    from .methods.circuits.tasks import Pair, Pairs, list_tasks, picture_pairs, task, task_maker
    from .methods.metrics import list_metrics, metric
    from .models import example, images, list_models, load, preprocess, read
    from .probe.attribution import (
        head_method,
        list_methods,
        method,
        pass_method,
        path_method,
        use,
    )
    from .probe.engine import inputs, ledger, maps, patch, plan, trace
    from .probe.errors import LimelightError
    from .probe.mark import mark
    from .probe.probe import Probe
    from .probe.relevance import Ledger
    from .probe.results import Maps, SaliencyMap
    from .probe.sites import Adapter, Shape, Site, adapter
    from .probe.targets import (
        Target,
        box,
        choice,
        contrast,
        difference,
        label,
        margin,
        peak,
        pixel,
        ranked,
        region,
        similar,
        token,
        top,
    )
    from .probe.trace import Trace, add, freeze, mean, scale, swap, zero
    from .reports.circuit_page import circuit_report
    from .reports.datasets import mqar, samples
    from .reports.explanation import explain
    from .reports.recall_page import recall_report
    from .reports.runs import run
    from .reports.scoring import score
    from .reports.tiles_page import tile_visits


def __getattr__(name: str) -> Any:
    """Public names come from their modules on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'limelight' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

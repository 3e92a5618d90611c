"""Foreign packages that tests compare with, imported where they can be."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import pytest
import torch

_libraries: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """Import torchvision, also beside a torch that its operators were not built for."""
    return import_foreign("torchvision")


def import_foreign(name: str) -> ModuleType:
    """Import torchvision or a package that needs it (timm, transformers); skips where it fails.

    torchvision describes operators that its compiled part defines; where that part does not load,
    as beside a CPU-only torch, the import stops; then they are defined here and it is repeated.
    """
    try:
        import_module("torchvision")
    except RuntimeError:
        _libraries.append(_operators())
    except ImportError:
        pass
    return pytest.importorskip(name, exc_type=ImportError)


def _operators() -> torch.library.Library:
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library

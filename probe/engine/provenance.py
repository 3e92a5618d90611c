"""Where results come from, as far as it is known without reading the weights."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import nn

from ..errors import OptionError
from ..results import About
from ..sites import RANDOM, has_initial_weights, is_script


def about_model(model: nn.Module, seed: int = 0) -> About:
    """Provenance of what is computed with a model; random weights are named.

    Raises OptionError for a seed that no generator takes.
    """
    check_seed(seed)
    dtype = next((str(p.dtype).removeprefix("torch.") for p in model.parameters()), "")
    card = getattr(model, "card", None)
    script = getattr(model, "original_name", None) if is_script(model) else None
    name = getattr(card, "name", None) or script or type(model).__name__
    now = datetime.now(UTC).isoformat(timespec="seconds")
    about = About(model=name, seed=seed, dtype=dtype, versions=_versions(), created=now)
    return about.cautioned(RANDOM) if has_initial_weights(model) else about


def check_seed(seed: object) -> None:
    """Raise OptionError for a seed that is no whole number of 64 bits."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not -(2**63) <= seed < 2**63:
        raise OptionError(f"seed={seed!r} is no whole number of 64 bits: give one, such as 0")


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    versions = [("torch", str(torch.__version__))]
    for name in ("limelight", "torchvision", "timm", "transformers", "captum"):
        try:
            versions.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return tuple(versions)

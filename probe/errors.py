"""The one family of errors: each says what was asked, what was found and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from ..kernels.errors import KernelError, LimelightError

__all__ = [
    "ImageError",
    "KernelError",
    "LimelightError",
    "MethodError",
    "ModelError",
    "OptionError",
    "ProbeError",
    "SiteError",
    "TargetError",
    "WeightsError",
    "near",
]


class SiteError(LimelightError, LookupError):
    """A site that does not exist, matched nothing or does not hold what was asked of it."""


class MethodError(LimelightError, LookupError):
    """A method that is unknown, registered twice or cannot run here."""


class OptionError(LimelightError, ValueError):
    """An option with an unknown name or an impossible value."""


class TargetError(LimelightError, ValueError):
    """A target that does not fit the model's output."""


class ProbeError(LimelightError, RuntimeError):
    """A probe used outside its `with`, left out of order, or blocked by the model."""


class ModelError(LimelightError, LookupError):
    """A model that is unknown or was built with hyper-parameters that cannot work."""


class WeightsError(LimelightError, OSError):
    """Weights that cannot be had, do not fit or must not be trusted."""


class ImageError(LimelightError, ValueError):
    """A picture that cannot be read, or that should not be."""


def near(name: str, names: Iterable[str], *, most: int = 3) -> str:
    """A closing clause with the nearest known names: `; did you mean 'a' or 'b'?`."""
    matches = get_close_matches(name, sorted(set(names)), n=most, cutoff=0.5)
    if not matches:
        return ""
    return "; did you mean " + " or ".join(repr(word) for word in matches) + "?"

"""Gates by name, each of a feature map of so many channels and of its shape."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ....probe.errors import OptionError, near
from .little import LittleAttention
from .polarized import PolarizedAttention
from .squeeze_excite import SqueezeExcite
from .subspace import ULSAM

GATES: dict[str, Callable[[int, int, int], nn.Module]] = {
    "lba": lambda dim, reduction, splits: LittleAttention(dim, reduction),
    "se": lambda dim, reduction, splits: SqueezeExcite(dim, max(1, dim // reduction)),
    "psa_p": lambda dim, reduction, splits: PolarizedAttention(dim, kind="p"),
    "psa_s": lambda dim, reduction, splits: PolarizedAttention(dim, kind="s"),
    "ulsam": lambda dim, reduction, splits: ULSAM(dim, num_splits=splits),
}


def gate(kind: str, dim: int, *, reduction: int = 16, num_splits: int = 4) -> nn.Module:
    """`b c y x` -> the same, weighed: "lba", "se", "psa_p", "psa_s" or "ulsam".

    reduction   of the channels inside lba and se; num_splits: groups of channels of ulsam
    Raises OptionError for another kind, and for channels that do not fit it.
    """
    if kind not in GATES:
        hint = near(kind, GATES) or "; there are " + ", ".join(GATES)
        raise OptionError(f"there is no gate {kind!r} of feature maps{hint}")
    return GATES[kind](dim, reduction, num_splits)

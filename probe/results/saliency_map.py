"""One map: values with all that is needed to read, draw and repeat them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace

import torch.nn.functional as F
from torch import Tensor

from ..errors import LimelightError
from ..sites import Site


@dataclass(frozen=True)
class About:
    """Where a map comes from: enough to compute it again.

    score     the target's value, of_class the class it is about, kept the relevance that arrived
    """

    model: str = ""
    weights: str = ""
    preprocessing: str = ""
    options: tuple[tuple[str, str], ...] = ()
    seed: int = 0
    dtype: str = "float32"
    versions: tuple[tuple[str, str], ...] = ()
    created: str = ""
    score: float | None = None
    of_class: int | None = None
    kept: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class SaliencyMap:
    """One map: what one method says about one sample, target and site.

    values  raw and signed, at native size, on the CPU
    axes    what its dimensions mean: `y x`, `n` (tokens), `h q k`
    extent  the part of the model's input it covers: top, left, bottom, right in pixels
    """

    values: Tensor
    axes: str
    sample: str
    target: str
    method: str
    site: Site
    extent: tuple[float, ...] = ()
    about: About = field(default=About(), repr=False)

    def __post_init__(self) -> None:
        if self.values.ndim != len(self.axes.split()):
            raise LimelightError(
                f"a map of {self.method!r} at {self.site} has shape {tuple(self.values.shape)}, "
                f"but axes {self.axes!r}; give one axis a dimension"
            )

    @property
    def signed(self) -> bool:
        """Whether any value is negative."""
        return bool((self.values < 0).any())

    def resize(self, size: tuple[int, int] | None = None, mode: str = "bilinear") -> SaliencyMap:
        """The map at `size` (rows, columns), by default that of the input it covers."""
        if self.axes != "y x":
            raise LimelightError(f"only maps over y and x can be resized, not {self.axes!r}")
        size = size or (
            round(self.extent[2] - self.extent[0]),
            round(self.extent[3] - self.extent[1]),
        )
        smooth = {} if mode == "nearest" else {"align_corners": False}
        values = F.interpolate(self.values.float()[None, None], size, mode=mode, **smooth)
        return replace(self, values=values[0, 0])


COLUMNS = [
    "sample",
    "target",
    "method",
    "site",
    "axes",
    "shape",
    "lo",
    "hi",
    "values",
    "extent",
    "about",
]


def table_row(m: SaliencyMap) -> tuple[object, ...]:
    flat = m.values.float().flatten()
    lo, hi = (flat.min().item(), flat.max().item()) if flat.numel() else (float("nan"),) * 2
    about = json.dumps(asdict(m.about))
    shape = list(m.values.shape)
    return (
        m.sample,
        m.target,
        m.method,
        str(m.site),
        m.axes,
        shape,
        lo,
        hi,
        flat.numpy(),
        list(m.extent),
        about,
    )

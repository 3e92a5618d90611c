"""One map: what one method says about one sample, target and site, and how it shows itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .map_values import MapValues, range_text

if TYPE_CHECKING:
    from PIL import Image

    from .figure import Figure


class SaliencyMap(MapValues):
    """One map: what one method says about one sample, target and site.

    values  raw and signed, at native size, on the CPU
    axes    what its dimensions mean: `y x`, `t`, `t y x`, `n` (tokens), `c` (features), `h q k`;
            a map per channel has `c` in front of its places; "" for one number, without places
    extent  the part of the model's input it covers: where it starts along each axis of places,
            then where it ends: top, left, bottom, right in pixels

    Example:
        >>> m = ll.maps(net, x, "gradcam", target=1)[0]
        >>> m.axes, m.values.shape, m.resize((8, 8)).values.shape
        ('y x', torch.Size([6, 6]), torch.Size([8, 8]))
    """

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """The values for numpy: `np.asarray(saliency_map)`."""
        values = self.values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
        found = values.numpy() if dtype is None else values.numpy().astype(dtype, copy=False)
        return found.copy() if copy else found

    def to_pil(self) -> Image.Image:
        """The map in colours on its own range, a pixel a value: a diverging scale where a value is
        negative. Volumes and films are tiles of slices.
        """
        from .sheet import picture_of

        return picture_of(self)

    def overlay(self, photo: Image.Image | str | Path, opacity: float = 0.6) -> Image.Image:
        """The map over a grey photo, as large as the photo.

        photo    what the map is of: the picture as the model took it, or one of the same shape
        opacity  of the map, 0 to 1
        Raises LimelightError for a map that is no picture, OptionError for an opacity outside.
        """
        from .sheet import over

        return over(self, photo, opacity)

    def figure(self) -> Figure:
        """The map as a plotly figure; see `Maps.figure`."""
        from .figure import figure
        from .map_panels import panel_of

        return figure([panel_of(self)])

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.values.shape)) or "one number"
        return (
            f"SaliencyMap({self.method!r} at {self.site}, {self.target!r}, sample {self.sample!r}, "
            f"{self.axes}: {shape}, {_extent_of(self.values)})"
        )

    def _repr_html_(self) -> str:
        from . import sheet

        return sheet.html([self])


def _extent_of(values: Tensor) -> str:
    finite = values[values.isfinite()]
    return range_text(float(finite.min()), float(finite.max())) if finite.numel() else "no number"

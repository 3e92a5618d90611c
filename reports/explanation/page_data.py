"""What the page needs to draw: maps as bytes at native size, and who is who."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...methods.context_aware import foci
from ...probe.results import STEPS, SaliencyMap, extremes, plane, span, steps, table
from .contents import Contents, MixerFigure, Photo
from .sample_data import (
    areas_data,
    base64_text,
    drawn_sample,
    in_blocks,
    seen_sample,
    shapes_data,
)

if TYPE_CHECKING:
    from PIL.Image import Image

Json = dict[str, Any]
_KINDS = {
    "y x": "image",
    "f t": "image",
    "n": "tokens",
    "t": "series",
    "c": "bars",
    "t y x": "volume",
    "z y x": "volume",
}
_QUALITY = 84
_WITH_FOCI, _THRESHOLD = "salient_relevance", 0.8


def page_data(contents: Contents) -> Json:
    """Names, maps and colours, ready for JSON; the photos are pictures of the page itself."""
    methods, targets = _Names(), _Names()
    sites = _Names(sorted((str(m.site) for m in contents.maps), key=lambda s: s != "input"))
    samples = _Names([p.sample for p in contents.photos] + [s.sample for s in contents.samples])
    maps, taken = [], set()
    for m in contents.maps:
        place = (samples[m.sample], targets[m.target], sites[str(m.site)])
        nth, method = 1, m.method
        while (*place, methods[method]) in taken:
            nth += 1
            method = f"{m.method} ({nth})"
        taken.add((*place, methods[method]))
        maps.append({"at": [*place, methods[method]], **_map(m)})
    mixer = contents.mixer
    figures = {"figures": _figures(mixer.figures, samples[mixer.sample])} if mixer else {}
    return {
        "samples": [_sample(contents, name, samples, targets) for name in samples.known],
        "targets": list(targets.known),
        "sites": list(sites.known),
        "methods": list(methods.known),
        "maps": maps,
        **figures,
        "scales": _scales(),
    }


def figures_data(figures: Sequence[MixerFigure]) -> Json:
    """What a page of figures alone needs: no sample lies under their maps."""
    sample = {"name": "", "seen": "", "top": [], "words": []}
    empty: Json = {name: [] for name in ("targets", "sites", "methods", "maps")}
    return {**empty, "samples": [sample], "figures": _figures(figures, 0), "scales": _scales()}


def _scales() -> dict[str, str]:
    return {name: base64_text(table(name).tobytes()) for name in _SCALES}


_SCALES = ("sequential", "diverging", "grey")


class _Names:
    """Numbers for names, in the order of their first use."""

    def __init__(self, names: list[str] | None = None) -> None:
        self.known = {name: i for i, name in enumerate(dict.fromkeys(names or []))}

    def __getitem__(self, name: str) -> int:
        return self.known.setdefault(name, len(self.known))


def _figures(figures: Sequence[MixerFigure], sample: int) -> list[Json]:
    """The maps of figures in the order of the page; those of one `group` share their colours."""
    drawn: list[Json] = []
    rows = [row for figure in figures for row in figure.rows]
    for n, row in enumerate(rows):
        for i, (_, m) in enumerate(row.maps):
            group = str(n) if row.alike else f"{n}.{i}"
            ends = {} if row.ends is None else {"range": list(row.ends)}
            drawn.append({"at": [sample], "group": group, **_map(m), **ends})
    return drawn


def _map(m: SaliencyMap) -> Json:
    """A map as steps of `step` from `base`, 255 for no number; zero of a signed map stays zero."""
    kind = _kind(m)
    values, block = _drawn(m) if kind == "volume" else (plane(m), {})
    ends = extremes(values)
    base, top, _ = span(*ends) if ends else (0.0, 0.0, "")
    return {
        "kind": kind,
        "axes": m.axes,
        "shape": list(m.values.shape),
        "size": list(values.shape),
        "range": list(ends) if ends else None,
        "base": base,
        "step": top / (STEPS - 1) - base / (STEPS - 1),
        "bad": int((~np.isfinite(m.values.double().numpy())).sum()),
        "extent": [float(edge) for edge in m.extent],
        **block,
        **_foci(m),
        "score": _number(m.about.score),
        "kept": _number(m.about.kept),
        **_values(kind, values, base, top),
    }


def _values(kind: str, values: NDArray[np.float64], base: float, top: float) -> Json:
    """Bars are read as numbers and kept as such; what is seen in colours, in their steps."""
    if kind == "bars":
        return {"numbers": [_number(v) for v in values.flatten().tolist()]}
    return {"bytes": base64_text(steps(values, base, top).tobytes())}


def _kind(m: SaliencyMap) -> str:
    """What the page draws a map as: of channels over time, those of the input alone have names."""
    if m.axes == "c t" and str(m.site) == "input":
        return "series"
    return _KINDS.get(m.axes, "matrix")


def _drawn(m: SaliencyMap) -> tuple[NDArray[np.float64], Json]:
    """The values of a volume, and the sides of the blocks whose means they are if they are any."""
    values, block = in_blocks(m.values.detach().double().cpu())
    return values.numpy(), {} if block == [1, 1, 1] else {"block": block}


def _foci(m: SaliencyMap) -> Json:
    """The level above which a map of salient relevance has its foci, and those, a bit a value."""
    if not m.method.startswith(_WITH_FOCI) or m.axes != "y x" or not m.values.numel():
        return {}
    share = float(dict(m.about.options).get("threshold", _THRESHOLD))
    values = m.values.float().where(m.values.isfinite(), -torch.inf)
    mask = foci(values, share)
    if not mask.any():
        return {}
    level = (share * values.max()).item()
    return {"outline": level, "foci": base64_text(np.packbits(mask.numpy()).tobytes())}


def _sample(contents: Contents, name: str, samples: _Names, targets: _Names) -> Json:
    photo = next((p for p in contents.photos if p.sample == name), None)
    other = next((s for s in contents.samples if s.sample == name), None)
    areas, shapes = contents.areas.get(name), contents.shapes.get(name)
    partners = contents.partners.get(name, ())
    seen = _seen(photo) if photo else seen_sample(other) if other else ""
    return {
        "name": name,
        "seen": "; beside it ".join(filter(None, (seen, contents.besides.get(name, "")))),
        "top": [[g.label, g.index, g.probability] for g in contents.top.get(name, ())],
        "words": list(contents.words.get(name, ())),
        **({} if other is None else {"drawn": drawn_sample(other)}),
        **({} if areas is None else {"areas": areas_data(areas)}),
        **(
            {}
            if shapes is None or photo is None
            else {"shapes": shapes_data(shapes, photo, targets.known)}
        ),
        **({"partners": [samples[p] for p in partners]} if partners else {}),
    }


def _seen(photo: Photo) -> str:
    """How the picture came about, in words."""
    text = f"{photo.image.width} × {photo.image.height} pixels as the model sees them"
    if photo.original is not None:
        text += f", from a file of {photo.original[1]} × {photo.original[0]}"
    if photo.crop:
        top, left, bottom, right = (round(edge) for edge in photo.crop)
        text += f", columns {left} to {right}, rows {top} to {bottom}"
    return text


def photo_uri(photo: Photo) -> str:
    """The picture as a WebP data address."""
    return picture_uri(photo.image)


def picture_uri(image: Image) -> str:
    """Pixels as a WebP data address."""
    sink = BytesIO()
    image.convert("RGB").save(sink, "WEBP", quality=_QUALITY, method=4)
    return "data:image/webp;base64," + base64_text(sink.getvalue())


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)

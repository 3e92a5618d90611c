"""One self-contained page for an explanation: no network, nothing from outside runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...probe.results import About
from ..html import fill, joined, nonempty
from .contents import Contents
from .mixer import section
from .page_data import page_data, photo_uri, picture_uri
from .thumbnails import thumbnails
from .waterfall import waterfalls

SCRIPTS = (
    "paint.js",
    "choice.js",
    "ground.js",
    "series.js",
    "bars.js",
    "volume.js",
    "shapes.js",
    "pair.js",
    "legend.js",
    "grid.js",
    "compare.js",
    "show.js",
    "state.js",
    "save.js",
    "page.js",
)
_MOST_NAMED = 4


def render(contents: Contents) -> str:
    """The page as text, to be written as UTF-8."""
    data = page_data(contents)
    photos = {p.sample: photo_uri(p) for p in reversed(contents.photos)}
    _each_once(data, photos)
    return fill(
        "page.html",
        ("page.css", "charts.css", "mixer.css") if contents.mixer else ("page.css",),
        (*SCRIPTS, "mixer.js") if contents.mixer else SCRIPTS,
        data,
        title=_title(contents),
        asked=_asked(contents, data),
        samples=data["samples"],
        partners=seen_beside(data),
        thumbnails=thumbnails(contents.samples),
        photos=photos,
        restored={name: picture_uri(image) for name, image in contents.restored.items()},
        kinds={m["kind"] for m in data["maps"]},
        waterfalls=waterfalls(contents.ledgers),
        cautions=contents.cautions,
        mixer=section(contents.mixer) if contents.mixer else None,
        provenance=provenance(contents),
    )


def seen_beside(data: dict[str, Any]) -> set[int]:
    """The photos that are seen beside others only."""
    return {p for sample in data["samples"] for p in sample.get("partners", ())}


def _each_once(data: dict[str, Any], photos: dict[str, str]) -> None:
    """A query beside many samples lies in the page once: the others name the `same`."""
    first: dict[str, int] = {}
    for place in sorted(seen_beside(data)):
        sample = data["samples"][place]
        kept = first.setdefault(photos.get(sample["name"], ""), place)
        if kept != place:
            sample["same"] = kept


def _models(contents: Contents) -> list[str]:
    return list(dict.fromkeys(a.model for a in _abouts(contents) if a.model))


def _title(contents: Contents) -> str:
    models = _models(contents)
    return contents.title or f"What {_listed(models) if models else 'the model'} looks at"


def _asked(contents: Contents, data: dict[str, Any]) -> str:
    """The question in one sentence: methods, sites, targets, samples."""
    if not data["maps"]:
        return "No maps were computed."
    sites = data["sites"]
    where = f"at {sites[0]}" if len(sites) == 1 else f"at {len(sites)} layers"
    count = len(data["samples"]) - len(seen_beside(data))
    targets = _listed(data["targets"])
    samples = "one sample" if count == 1 else f"{count} samples"
    return f"{_listed(data['methods'])} {where}, for {targets}, on {samples}."


def _listed(words: list[str]) -> str:
    if len(words) > _MOST_NAMED:
        return f"{', '.join(words[:3])} and {len(words) - 3} more"
    return joined(words)


def _abouts(contents: Contents) -> list[About]:
    of_maps = dict.fromkeys(m.about for m in contents.maps)
    return [contents.about, *of_maps] if contents.about else list(of_maps)


def provenance(contents: Contents) -> list[tuple[str, list[str]]]:
    """Rows of the table that says how to compute the page again; empty rows are dropped."""
    abouts = _abouts(contents)
    options: dict[str, None] = {}
    for m in contents.maps:
        if m.about.options:
            options[f"{m.method}: {', '.join(' = '.join(pair) for pair in m.about.options)}"] = None
    rows = {
        "Model": (a.model for a in abouts),
        "Weights": (a.weights for a in abouts),
        "Preprocessing": (a.preprocessing for a in abouts),
        "Options": options,
        "Seed": (str(a.seed) for a in abouts),
        "Type": (a.dtype for a in abouts),
        "Versions": (f"{name} {number}" for a in abouts for name, number in a.versions),
        "Computed": _period(a.created for a in abouts),
        "Notes": (note for a in abouts for note in a.notes),
        "Left out": (f"{name}: {reason}" for name, reason in contents.skipped),
    }
    return nonempty({name: dict.fromkeys(texts) for name, texts in rows.items()})


def _period(times: Iterable[str]) -> list[str]:
    """Many times of computing as the first and the last."""
    moments = sorted(set(filter(None, times)))
    return moments if len(moments) < 2 else [f"{moments[0]} to {moments[-1]}"]

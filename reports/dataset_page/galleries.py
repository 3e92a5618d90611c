"""The images worth a look: for each score and method the best and the worst at its best site."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import pandas

from ...methods.metrics import list_metrics
from ...models.inputs import read
from ...probe.attribution import bare_name
from ...probe.errors import LimelightError
from ...probe.results import Maps, SaliencyMap, map_of_row
from ..explanation import Explanation, Photo, Samples, by_input
from ..runs import Row, Run, part_path, part_source
from ..scoring import LEAST, NAMES, PAIRED, seen
from .head_means import AXES
from .run_parts import RunParts

EACH, MOST, BYTES = 3, 24, 5_000_000


@dataclass(frozen=True)
class GalleryItem:
    """An image in a gallery: its place in the data set, and its score."""

    place: int
    value: float


@dataclass(frozen=True)
class Gallery:
    """The best and the worst images of one method by one score, at the site it is best at."""

    metric: str
    asked: str
    method: str
    site: str
    best: tuple[GalleryItem, ...]
    worst: tuple[GalleryItem, ...]


def rank(metric: str) -> int:
    """Where a score stands on the page: localisation, class sensitivity, all others."""
    groups = {m.name: m.group for m in list_metrics()}
    if metric in PAIRED:
        return 1 + (metric != "class_sensitivity")
    return 0 if groups.get(bare_name(metric)) == "Localisation" else 3


def galleries(
    scores: pandas.DataFrame, means: pandas.DataFrame, smaller: Sequence[str]
) -> list[Gallery]:
    """One for each score and method. `smaller`: the scores of which less is better."""
    shown = []
    usable = means[(means["count"] > 1) & (means["asked"] != LEAST)]
    groups = usable.groupby(["metric", "method"], sort=False)
    for (metric, method), group in sorted(groups, key=lambda item: rank(item[0][0])):
        if method in NAMES or (metric in PAIRED and metric != "class_sensitivity"):
            continue
        less = metric in smaller
        row = group.sort_values("mean", ascending=less, kind="stable").iloc[0]
        values = scores[
            (scores["metric"] == metric)
            & (scores["method"] == method)
            & (scores["site"] == row["site"])
            & (scores["asked"] == row["asked"])
            & scores["value"].notna()
        ].sort_values("value", ascending=less, kind="stable")
        count = min(EACH, len(values) // 2)
        items = [
            GalleryItem(int(place), float(value))
            for place, value in zip(values["index"], values["value"], strict=True)
        ]
        best, worst = tuple(items[:count]), tuple(reversed(items[len(items) - count :]))
        if not count or best[0].value == worst[0].value:
            continue
        shown.append(Gallery(metric, row["asked"], str(method), row["site"], best, worst))
    return shown


def pool(shown: Sequence[Gallery]) -> list[int]:
    """Places of images, the extremes of every gallery before their neighbours."""
    ranked = [[item.place for item in side] for g in shown for side in (g.best, g.worst)]
    layers = zip_longest(*ranked)
    return list(dict.fromkeys(p for layer in layers for p in layer if p is not None))[:MOST]


def explanation_of(run: Run, places: Sequence[int]) -> tuple[Explanation, dict[int, str]]:
    """Pictures and maps at some places, as many as a page bears; and their names by place."""
    maps: list[SaliencyMap] = []
    shown = Samples()
    names: dict[int, str] = {}
    size = 0
    parts = RunParts.of(run)
    for place in places:
        rows = [r for r in _rows(run, place) if r["error"] is None and r["axes"] != AXES]
        size += sum(len(row["values"]) for row in rows)
        if not rows or (names and size > BYTES):
            continue
        short = rows[0]["sample"].rpartition("/")[2]
        names[place] = short if short not in names.values() else rows[0]["sample"]
        maps += [map_of_row({**row, "sample": names[place]}) for row in rows]
        shown.inputs[names[place]] = ()
        shown.photos.extend(_photo({**rows[0], "sample": names[place]}))
        if parts is not None:
            parts.add(shown, place, names[place])
    placed = by_input(Maps(maps), shown)
    others = tuple(shown.others)
    pictures, words = tuple(shown.photos), shown.words
    explanation = Explanation(
        placed,
        pictures,
        words=words,
        samples=others,
        besides=shown.besides,
        partners=shown.partners,
    )
    return explanation, names


def _rows(run: Run, place: int) -> list[Row]:
    from pyarrow import parquet

    plan = run.plan
    source = part_source(part_path(run.folder, place // plan.shard), plan)
    return parquet.read_table(source, filters=[("index", "==", place)]).to_pylist()


def _photo(row: Row) -> Iterator[Photo]:
    """The picture as the model saw it, where its file is still there."""
    boxes = (row["crop"] or (), row["extent"] or ())
    if any(len(box) != 4 for box in boxes) or not Path(row["source"] or ".").is_file():
        return
    try:
        photo = read(row["source"])
    except LimelightError:
        return
    left, top, right, bottom = row["crop"]
    size = (round(row["extent"][2]), round(row["extent"][3]))
    image = seen(photo, [left, top, right, bottom], size)
    original = (photo.height, photo.width)
    yield Photo(row["sample"], image, original, (top, left, bottom, right))

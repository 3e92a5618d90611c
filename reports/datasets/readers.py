"""Data sets in the forms people keep them: folders, tables, COCO, VOC, torch and Hugging Face."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ...models.inputs import SUFFIXES, images
from ...probe.attribution import Data
from ...probe.errors import LimelightError, near
from ...probe.targets import class_in
from .samples import Annotation, Box, Sample, Samples

SOURCES = ("path", "image", "file", "file_name", "filename", "source")
LABELS = ("label", "class", "target", "category")
BOXES = ("left", "top", "right", "bottom")


def samples(data: Data, *, root: str | Path | None = None) -> Samples:
    """Any data set as samples.

    data   a folder of pictures (subfolders name classes) or in VOC's layout, a listing (.csv,
           .parquet), COCO's .json, prompts (.jsonl), a Hugging Face data set saved to disk, a
           torch data set, pictures, or a list of paths
    root   where the paths of a listing start; by default at the listing itself
    Raises LimelightError, ImageError.
    """
    if isinstance(data, Samples):
        return data
    if isinstance(data, (str, Path)):
        path, start = Path(data).expanduser(), None if root is None else Path(root).expanduser()
        opened = _file(path, start)
        opened.origin = tuple(str(p.resolve()) for p in (path, start) if p is not None)
        return opened
    if hasattr(data, "column_names") and hasattr(data, "_fingerprint"):
        return hugging_face(data)
    listed = isinstance(data, (list, tuple))
    if not listed and hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return torch_dataset(data)
    if not isinstance(data, Iterable):
        raise LimelightError(
            f"a {type(data).__name__} is no data set: give a folder, a listing, a torch data set "
            "or pictures"
        )
    return pictures(list(data))


def _file(path: Path, root: Path | None) -> Samples:
    if path.is_dir():
        if (path / "state.json").exists() or (path / "dataset_info.json").exists():
            return hugging_face(_load_from_disk(path))
        return voc(path) if (path / "Annotations").is_dir() else folder(path)
    readers = {".csv": listing, ".tsv": listing, ".parquet": listing, ".json": coco}
    readers |= {".jsonl": prompts, ".xml": _one_voc}
    read = readers.get(path.suffix.lower())
    if read is None and path.suffix.lower() in SUFFIXES:
        return pictures([path])
    if read is None:
        raise LimelightError(
            f"data {str(path)!r} ends in {path.suffix or 'nothing'!r}: give a folder, a picture, "
            f"or a file ending in {', '.join(readers)}"
        )
    if not path.is_file():
        raise LimelightError(f"data {str(path)!r} does not exist; check the path")
    try:
        return read(path, root or path.parent)
    except LimelightError:
        raise
    except (ValueError, KeyError, TypeError, ElementTree.ParseError, OSError) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0][:160]
        raise LimelightError(f"data {str(path)!r} cannot be read ({reason})") from error


def folder(root: Path) -> Samples:
    """The pictures under a folder; the subfolder that holds one is its label."""
    paths = images(root)
    return Samples(Sample(p.relative_to(root).as_posix(), str(p), _parent(p, root)) for p in paths)


def _parent(path: Path, root: Path) -> str | None:
    return None if path.parent == root else path.parent.name


def pictures(items: Sequence[Any]) -> Samples:
    """Paths, or pictures of any kind that `limelight.read` takes."""
    if all(isinstance(item, (str, Path)) for item in items):
        paths = [Path(item).expanduser() for item in items]
        return Samples(Sample(p.stem, str(p)) for p in paths)
    rows = [Sample(f"picture {n}") for n in range(1, len(items) + 1)]
    return Samples(rows, open=lambda place, row: (items[place], row))


def listing(path: Path, root: Path) -> Samples:
    """A table, one row an annotation: path, label, and
    left top right bottom or mask if there are any.

    Rows of one path are one sample; its label is that of its first row.
    """
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    rows = _table(path)
    source = _column(rows, SOURCES, path)
    label = next((word for word in LABELS if word in rows[0]), "")
    for row in rows:
        groups[str(row[source])].append(row)
    listed = []
    for name, group in groups.items():
        annotations = tuple(a for row in group for a in _annotation(row, label, root))
        first = _label(group[0].get(label))
        listed.append(Sample(name, str(root / name), first, annotations))
    return Samples(listed)


def _table(path: Path) -> list[dict[str, Any]]:
    if path.suffix.lower() == ".parquet":
        from pyarrow import parquet

        rows = parquet.read_table(path).to_pylist()
    else:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
    if not rows:
        raise LimelightError(f"listing {str(path)!r} has no rows")
    return rows


def _column(rows: Sequence[Mapping[str, Any]], known: Sequence[str], path: Path) -> str:
    column = next((word for word in known if word in rows[0]), None)
    if column is None:
        hint = near(known[0], rows[0])
        raise LimelightError(
            f"listing {str(path)!r} has the columns {', '.join(rows[0])}, but none of "
            f"{', '.join(known)}{hint}"
        )
    return column


def _annotation(row: Mapping[str, Any], label: str, root: Path) -> list[Annotation]:
    corners = [row.get(word) for word in BOXES]
    box = None if any(c in (None, "") for c in corners) else tuple(float(c) for c in corners)  # type: ignore[arg-type]
    mask = row.get("mask")
    if box is None and not mask:
        return []
    value = row.get("value")
    hard = str(row.get("difficult", "")).lower() in ("1", "true", "yes")
    where = str(root / mask) if mask else ""
    number = None if value in (None, "") else int(value)
    return [Annotation(_label(row.get(label)), box, where, number, (), hard)]  # type: ignore[arg-type]


def _label(value: Any) -> int | str | None:
    if value is None or value == "":
        return None
    return class_in(str(value))


def coco(path: Path, root: Path) -> Samples:
    """COCO's instances: boxes and outlines, the category's name as label of each annotation.

    Pictures are looked for beside the file, and in its folders `images`, `train2017`, `val2017`.
    """
    raw = json.loads(path.read_text())
    names = {c["id"]: c["name"] for c in raw["categories"]}
    annotations: dict[int, list[Annotation]] = defaultdict(list)
    for instance in raw["annotations"]:
        x, y, width, height = (float(v) for v in instance["bbox"])
        shape = instance.get("segmentation")
        outlines = tuple(tuple(map(float, p)) for p in shape) if isinstance(shape, list) else ()
        box = (x, y, x + width, y + height)
        crowd = bool(instance.get("iscrowd"))
        annotations[instance["image_id"]].append(
            Annotation(names[instance["category_id"]], box, "", None, outlines, crowd)
        )
    listed = []
    for image in raw["images"]:
        marked = tuple(annotations[image["id"]])
        place = _beside(root, image["file_name"])
        label = marked[0].label if marked else None
        listed.append(Sample(image["file_name"], place, label, marked))
    return Samples(listed)


def _beside(root: Path, name: str) -> str:
    folders = [root, root / "images", root / "train2017", root / "val2017", root.parent / "images"]
    return str(next((f / name for f in folders if (f / name).exists()), root / name))


def voc(root: Path) -> Samples:
    """Pascal VOC's layout: Annotations/*.xml beside JPEGImages/."""
    files = sorted((root / "Annotations").glob("*.xml"))
    if not files:
        raise LimelightError(f"{str(root / 'Annotations')!r} holds no .xml file")
    return Samples(_voc_row(file, root / "JPEGImages") for file in files)


def _one_voc(path: Path, root: Path) -> Samples:
    return Samples([_voc_row(path, root)])


def _voc_row(path: Path, root: Path) -> Sample:
    tree = ElementTree.parse(path).getroot()
    annotations = []
    for marked in tree.iter("object"):
        box = marked.find("bndbox")
        corners = [float(box.findtext(word, "nan")) for word in ("xmin", "ymin", "xmax", "ymax")]  # type: ignore[union-attr]
        edges: Box = (corners[0] - 1, corners[1] - 1, corners[2], corners[3])  # counted from 1
        hard = marked.findtext("difficult", "0").strip() == "1"
        annotations.append(Annotation(marked.findtext("name"), edges, difficult=hard))
    name = tree.findtext("filename") or path.stem + ".jpg"
    label = annotations[0].label if annotations else None
    return Sample(path.stem, _beside(root, name), label, tuple(annotations))


def prompts(path: Path, root: Path) -> Samples:
    """Prompts, one JSON object a line: `text` or `prompt`, and whatever else its task needs."""
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    key = _column(rows, ("text", "prompt", "clean", "positive"), path)
    return Samples(
        Sample(str(row.get("name", n)), str(row[key]), _label(row.get("label", row.get("answer"))))
        for n, row in enumerate(rows)
    )


def torch_dataset(data: Any) -> Samples:
    """A torch data set of (picture or ready input, label), or of mappings with such keys."""
    kind = f"{type(data).__module__}.{type(data).__qualname__} {len(data)}"
    return _lazy(len(data), data.__getitem__, kind)


def hugging_face(data: Any) -> Samples:
    """A data set of the `datasets` package, whose fingerprint stands for its content."""
    return _lazy(len(data), data.__getitem__, str(data._fingerprint))


def _lazy(count: int, get: Callable[[int], Any], digest: str) -> Samples:
    """Rows that are only known when they are opened."""

    def open_row(place: int, row: Sample) -> tuple[Any, Sample]:
        item = get(place)
        if isinstance(item, Mapping):
            source = next((item[w] for w in ("image", "img", "pixel_values") if w in item), None)
            label = next((item[w] for w in LABELS if w in item), None)
        else:
            pair = item if isinstance(item, (tuple, list)) else (item, None)
            source, label = pair[0], pair[1] if len(pair) > 1 else None
        if source is None:
            raise LimelightError("the row has no image: name its column image, img or pixel_values")
        value = label if label is None or isinstance(label, (int, str)) else int(label)
        return source, Sample(row.name, "", _label(value), row.annotations)

    return Samples((Sample(str(n)) for n in range(count)), open=open_row, digest=digest)


def _load_from_disk(path: Path) -> Any:
    try:
        from datasets import load_from_disk
    except ImportError as error:
        raise LimelightError(
            f"{str(path)!r} is a Hugging Face data set, which needs: pip install datasets"
        ) from error
    return load_from_disk(str(path))

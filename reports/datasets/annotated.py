"""Data sets of marked pictures: COCO's instances and Pascal VOC's folders."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ...probe.errors import LimelightError
from .samples import Annotation, Box, Sample, Samples, marked_or_fault, with_faults
from .tables import text_of


def coco(path: Path, root: Path) -> Samples:
    """COCO's instances: boxes and outlines, the category's name as label of each annotation.

    Pictures are looked for beside the file, and in its folders `images`, `train2017`, `val2017`.
    An annotation or picture that is broken becomes a row that says why.
    """
    raw = _parsed(path)
    names = {c["id"]: c["name"] for c in _dicts(raw, "categories") if {"id", "name"} <= c.keys()}
    marked: dict[Any, list[Annotation]] = defaultdict(list)
    known = {_key(image.get("id")) for image in _dicts(raw, "images")}
    lost: list[Sample] = []
    for place, instance in enumerate(raw["annotations"], 1):
        where = _where("annotation", instance, place, path)
        fault = _odd(instance, known, where)
        if fault:
            lost.append(Sample(where, str(path), fault=fault))
        else:
            made = marked_or_fault(partial(_instance, instance, names), where)
            marked[_key(instance["image_id"])].append(made)
    listed = list(_images(raw["images"], marked, path, root))
    return with_faults([*listed, *lost])


def _parsed(path: Path) -> Mapping[str, Any]:
    raw = json.loads(text_of(path))
    lists = ("images", "annotations", "categories")
    if not isinstance(raw, dict) or not all(isinstance(raw.get(name), list) for name in lists):
        raise LimelightError(
            f"data {str(path)!r} is not COCO's: it needs the lists {', '.join(lists)}"
        )
    return raw


def _dicts(raw: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    return [item for item in raw[name] if isinstance(item, dict)]


def _key(number: Any) -> Any:
    return number if isinstance(number, (int, str)) else repr(number)


def _where(kind: str, item: Any, place: int, path: Path) -> str:
    number = item.get("id") if isinstance(item, dict) else None
    return f"{kind} {f'no. {place}' if number is None else f'id {number}'} of {path.name!r}"


def _odd(instance: Any, known: set[Any], where: str) -> str:
    """Why an annotation belongs to no picture."""
    if not isinstance(instance, dict) or "image_id" not in instance:
        return f"{where} names no picture: give its image_id"
    if _key(instance["image_id"]) not in known:
        return f"{where} is of picture {instance['image_id']!r}, which is not among the images"
    return ""


def _instance(instance: Mapping[str, Any], names: Mapping[Any, str]) -> Annotation:
    """Raises LimelightError, or ValueError and the like, for what is no annotation."""
    category = _key(instance.get("category_id"))
    if category not in names:
        raise LimelightError(f"its category {category!r} is not among the categories")
    box = instance.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise LimelightError(f"its box {box!r} is not left, top, width, height")
    x, y, width, height = (float(v) for v in box)
    shape = instance.get("segmentation")
    outlines = tuple(tuple(map(float, p)) for p in shape) if isinstance(shape, list) else ()
    edges = (x, y, x + width, y + height)
    return Annotation(names[category], edges, "", None, outlines, bool(instance.get("iscrowd")))


def _images(
    images: list[Any], marked: Mapping[Any, list[Annotation]], path: Path, root: Path
) -> Iterator[Sample]:
    seen: set[Any] = set()
    for place, image in enumerate(images, 1):
        where = _where("image", image, place, path)
        name = image.get("file_name") if isinstance(image, dict) else None
        number = _key(image.get("id")) if isinstance(image, dict) else None
        if not isinstance(name, str) or not name or number in seen:
            fault = "has the id of another one" if number in seen else "has no file_name"
            yield Sample(where, str(path), fault=f"{where} {fault}")
            continue
        seen.add(number)
        annotations = tuple(marked.get(number, ()))
        label = next((a.label for a in annotations if not a.fault), None)
        yield Sample(name, beside(root, name), label, annotations)


def beside(root: Path, name: str) -> str:
    """A picture beside the file that names it, or in one of COCO's folders there."""
    folders = [root, root / "images", root / "train2017", root / "val2017", root.parent / "images"]
    return str(next((f / name for f in folders if _exists(f / name)), root / name))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or with a zero byte
        return False


def voc(root: Path) -> Samples:
    """Pascal VOC's layout: Annotations/*.xml beside JPEGImages/."""
    files = sorted((root / "Annotations").glob("*.xml"))
    if not files:
        raise LimelightError(f"{str(root / 'Annotations')!r} holds no .xml file")
    return with_faults([_voc_row(file, root / "JPEGImages") for file in files])


def one_voc(path: Path, root: Path) -> Samples:
    """The picture that a single file of VOC's marks."""
    return with_faults([_voc_row(path, root)])


def _voc_row(path: Path, root: Path) -> Sample:
    try:
        tree = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        return Sample(path.stem, str(path), fault=f"{path.name!r} cannot be read: {error}")
    annotations = tuple(
        marked_or_fault(partial(_voc_object, marked), f"object {n} of {path.name!r}")
        for n, marked in enumerate(tree.iter("object"), 1)
    )
    name = (tree.findtext("filename") or "").strip() or path.stem + ".jpg"
    label = next((a.label for a in annotations if not a.fault), None)
    return Sample(path.stem, beside(root, name), label, annotations)


def _voc_object(marked: ElementTree.Element) -> Annotation:
    """Raises LimelightError for what marks nothing."""
    box = marked.find("bndbox")
    if box is None:
        raise LimelightError("it has no bndbox")
    words = ("xmin", "ymin", "xmax", "ymax")
    texts = [box.findtext(word) for word in words]
    if missing := [word for word, text in zip(words, texts, strict=True) if text is None]:
        raise LimelightError(f"its bndbox has no {missing[0]}")
    left, top, right, bottom = (float(text or "nan") for text in texts)
    edges: Box = (left - 1, top - 1, right, bottom)  # counted from 1
    hard = marked.findtext("difficult", "0").strip() == "1"
    return Annotation(marked.findtext("name"), edges, difficult=hard)

"""Hostile listings: good rows are read as they stand, every bad one says why and on which line."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from soak_verdict import fault, one_sentence

import limelight as ll
from limelight.probe.errors import LimelightError

_COUNT = 8
_BOXES = ("nan,0,3,3", "0,0,-3,3", "x,0,3,3", ",0,3,3", "0,0,inf,3", "5,5,5,9")


@dataclass
class Listing:
    """A file to be written, with what reading it must say.

    said   words that open the faults, in their order, such as `line 3 of`
    names  of the good rows; None where the whole file may be refused
    """

    content: bytes
    ending: str
    said: Sequence[str]
    names: Sequence[str] | None


def trial(count: int, seed: int) -> tuple[int, int]:
    """Read `count` listings; how many were read, and how many said all that is wrong."""
    draw, held, kinds = random.Random(seed), 0, [*_KINDS]
    with tempfile.TemporaryDirectory() as home:
        for n in range(_COUNT):
            Image.new("RGB", (12, 10)).save(Path(home) / f"{n}.png")
        for n in range(count):
            kind = kinds[n % len(kinds)]
            made = kind(draw)
            path = Path(home) / f"listing{n}{made.ending}"
            path.write_bytes(made.content)
            wrong = fault(lambda p=path, m=made: _read(p, m))
            held += not wrong
            if wrong:
                print(f"listings, {path.name} {kind.__name__.strip('_')}: {wrong}")
    return count, held


def _read(path: Path, made: Listing) -> str:
    try:
        found = ll.samples(path)
    except LimelightError:
        if made.names is None:
            raise
        return "the whole file was refused"
    said, names = [], []
    for place, row in enumerate(found.rows):
        try:
            found.open(place, row)
            names.append(row.name)
        except LimelightError as error:
            said.append(str(error))
    if made.names is not None and names != [*made.names]:
        return f"read {names}, not {[*made.names]}"
    if made.names is None:
        return "" if all(map(one_sentence, said)) else f"said {said}"
    if len(said) != len(made.said) or not all(map(one_sentence, said)):
        return f"{len(said)} rows say why, not {len(made.said)}: {said[:3]}"
    wrong = [s for s, words in zip(said, made.said, strict=True) if not s.startswith(words)]
    if len(found.digest) != 16:
        return "no digest"
    return f"said {wrong[0]!r}" if wrong else ""


def _table(draw: random.Random, bad: Callable[[int], str], *, boxes: bool = False) -> Listing:
    """Rows of pictures, some of whose labels have several lines, with bad rows among them."""
    head = "path,label" + ",left,top,right,bottom" * boxes
    lines, said, names = [head], [], []
    for n in range(_COUNT):
        if draw.random() < 0.4 or n == 3:
            said.append(f"line {1 + sum(text.count(chr(10)) + 1 for text in lines)} of")
            lines.append(bad(n))
            names += [f"{n}.png"] * boxes
        else:
            label = draw.choice(("bee", '"two\nlines"', '"a, b"', '"""quoted"""'))
            lines.append(f"{n}.png,{label}" + ",0,0,4,4" * boxes)
            names.append(f"{n}.png")
    text = "\n".join(lines) + "\n" * draw.randrange(2)
    return Listing(_coded(draw, text), ".csv", said, names)


def _coded(draw: random.Random, text: str) -> bytes:
    start = b"\xef\xbb\xbf" * draw.randrange(2)
    return start + text.encode("utf-8", "surrogateescape")


def _cells(draw: random.Random) -> Listing:
    return _table(draw, lambda n: draw.choice((f"{n}.png", f"{n}.png,1,2", ",bee")))


def _signs(draw: random.Random) -> Listing:
    rows = ("a\0.png,1", "caf\udce9.png,1", "1.png,caf\udce9", "a" * 140_000 + ",1")
    return _table(draw, lambda n: draw.choice(rows))


def _boxes(draw: random.Random) -> Listing:
    return _table(draw, lambda n: f"{n}.png,bee,{draw.choice(_BOXES)}", boxes=True)


def _addresses(draw: random.Random) -> Listing:
    return _table(draw, lambda n: draw.choice(("http://host/a.png,1", "s3://b/c.png,1")))


def _twice(draw: random.Random) -> Listing:
    rows = [(draw.randrange(3), draw.randrange(4)) for _ in range(9)]
    labels: dict[int, list[int]] = {}
    for n, label in rows:
        held = labels.setdefault(n, [])
        held += [label] * (label not in held)
    names = [f"{n}.png" + f" ({k})" * (k > 1) for n, held in labels.items()
             for k in range(1, len(held) + 1)]  # fmt: skip
    text = "path,label\n" + "".join(f"{n}.png,{label}\n" for n, label in rows)
    return Listing(text.encode(), ".csv", (), names)


def _unclosed(draw: random.Random) -> Listing:
    text = 'path,label\n0.png,1\n1.png,"bee\n2.png,2\n3.png,3\n'
    return Listing(text.encode(), ".csv", ("line 3 of",), ["0.png"])


def _objects(draw: random.Random) -> Listing:
    bad: list[Any] = ["{", "[1]", "3", '{"label": 1}', '{"path": ["a"]}', "[" * 100_000,
                      '{"path": "1.png", "label": "\\ud800"}', '{"path": "a.png", "label": {}}',
                      '{"path": "1.png", "label": ' + "9" * 5000 + "}"]  # fmt: skip
    lines, said, names = [], [], []
    for n in range(_COUNT):
        lines += [""] * draw.randrange(2)
        if draw.random() < 0.4:
            lines.append(draw.choice(bad))
            said.append(f"line {len(lines)} of")
        else:
            lines.append(json.dumps({"path": f"{n}.png", "label": "a\u2028b\x85c"},
                                    ensure_ascii=False))  # fmt: skip
            names.append(f"{n}.png")
    text = draw.choice(("\n", "\r\n")).join(lines)
    return Listing(_coded(draw, text), ".jsonl", said, names or None)


def _coco(draw: random.Random) -> Listing:
    good = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 3, 3]}
    bad: list[dict[str, Any]] = [{"category_id": 77}, {"bbox": [0, 0, -1, 3]}, {"bbox": [1, 2]},
           {"bbox": [float("nan"), 0, 1, 1]}, {"bbox": "x"}, {"bbox": ["x", 0, 1, 1]},
           {"segmentation": [[1, 2]]}, {"category_id": None}]  # fmt: skip
    chosen = [(n, draw.choice([{}, draw.choice(bad)])) for n in range(20, 30)]
    said = [f"annotation id {n} of" for n, change in chosen if change]
    raw = {"images": [{"id": 1, "file_name": "0.png"}], "categories": [{"id": 1, "name": "bee"}],
           "annotations": [{**good, "id": n, **change} for n, change in chosen]}  # fmt: skip
    return Listing(json.dumps(raw).encode(), ".json", said, ["0.png"])


def _noise(draw: random.Random) -> Listing:
    ending = draw.choice((".csv", ".tsv", ".jsonl", ".parquet", ".json", ".xml"))
    bad = (b"", b"\n\n", b"path\n", b"\xff\xfea\0", b"[]", b"{}", b"[" * 100_000, b"\0" * 50,
           b"path,path\n1,2\n", draw.randbytes(300), b"<a>" * 10_000, b"PAR1PAR1")  # fmt: skip
    return Listing(draw.choice(bad), ending, (), None)


_KINDS: tuple[Callable[[random.Random], Listing], ...] = (
    _cells, _signs, _boxes, _addresses, _twice, _unclosed, _objects, _coco, _noise, _objects,
)  # fmt: skip

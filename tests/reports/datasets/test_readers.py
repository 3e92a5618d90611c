"""Data sets in the forms people keep them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from limelight.probe.errors import ImageError, LimelightError
from limelight.reports.datasets.readers import samples
from limelight.reports.datasets.samples import Annotation, Sample, Samples


@pytest.fixture
def photos(tmp_path):
    for name in ("images/bee/a.png", "images/bee/b.png", "images/owl/c.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10), "white").save(path)
    return tmp_path


def test_a_folder_names_classes_by_subfolders(photos):
    found = samples(photos / "images")
    assert [(s.name, s.label) for s in found] == [
        ("bee/a.png", "bee"),
        ("bee/b.png", "bee"),
        ("owl/c.png", "owl"),
    ]
    assert found.open(0, found[0])[0] == found[0].source
    (photos / "none").mkdir()
    with pytest.raises(ImageError, match="holds no pictures"):
        samples(photos / "none")


def test_a_table_joins_the_things_of_one_picture(photos):
    text = "path,label,left,top,right,bottom,difficult\na.png,3,1,2,5,6,0\na.png,4,0,0,2,2,1\n"
    (photos / "list.csv").write_text(text + "b.png,bee,,,,,\n")
    one, two = samples(photos / "list.csv", root=photos / "images" / "bee")
    assert one.label == 3
    assert one.annotations == (
        Annotation(3, (1, 2, 5, 6)),
        Annotation(4, (0, 0, 2, 2), difficult=True),
    )
    assert two == Sample("b.png", str(photos / "images/bee/b.png"), "bee")


def test_a_parquet_table_with_masks(photos):
    import pandas

    frame = pandas.DataFrame({"file": ["a.png"], "class": [7], "mask": ["m.png"], "value": [2]})
    frame.to_parquet(photos / "list.parquet")
    (row,) = samples(photos / "list.parquet")
    assert row.annotations == (Annotation(7, None, str(photos / "m.png"), 2),)


def test_coco_boxes_and_outlines(photos):
    raw = {
        "images": [{"id": 9, "file_name": "bee/a.png"}, {"id": 10, "file_name": "x.png"}],
        "categories": [{"id": 1, "name": "bee"}],
        "annotations": [
            {
                "image_id": 9,
                "category_id": 1,
                "bbox": [2, 3, 4, 5],
                "segmentation": [[0, 0, 4, 0, 4, 4]],
            },
            {"image_id": 9, "category_id": 1, "bbox": [0, 0, 1, 1], "iscrowd": 1},
        ],
    }
    (photos / "instances.json").write_text(json.dumps(raw))
    one, two = samples(photos / "instances.json")
    assert one.source == str(photos / "images/bee/a.png")
    assert one.annotations[0] == Annotation("bee", (2, 3, 6, 8), polygons=((0, 0, 4, 0, 4, 4),))
    assert one.annotations[1].difficult
    assert two.label is None


def test_voc_counts_pixels_from_one(photos):
    (photos / "Annotations").mkdir()
    (photos / "Annotations" / "a.xml").write_text(
        "<annotation><filename>a.jpg</filename><object><name>dog</name>"
        "<difficult>1</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>5</xmax>"
        "<ymax>6</ymax></bndbox></object></annotation>"
    )
    (row,) = samples(photos)
    assert row.label == "dog"
    assert row.annotations == (Annotation("dog", (0, 1, 5, 6), difficult=True),)


def test_prompts_by_line(photos):
    (photos / "p.jsonl").write_text('{"text": "When Mary", "answer": " John"}\n\n{"text": "b"}\n')
    one, two = samples(photos / "p.jsonl")
    assert (one.source, one.label, two.name) == ("When Mary", " John", "1")


def test_a_torch_data_set_is_opened_late():
    class Data(torch.utils.data.Dataset):
        read = 0

        def __len__(self):
            return 3

        def __getitem__(self, n):
            Data.read += 1
            return torch.full((3, 4, 4), float(n)), torch.tensor(n + 5)

    found = samples(Data())
    assert Data.read == 0
    item, row = found.open(2, found[2])
    assert (float(item.mean()), row.label) == (2.0, 7)


def test_pictures_themselves_and_twice_the_same_name(photos):
    found = samples([Image.new("RGB", (4, 4)), np.zeros((4, 4, 3), np.uint8)])
    assert found.open(0, found[0])[0].size == (4, 4)
    path = photos / "images/bee/a.png"
    assert [s.name for s in samples([path, path, path])] == ["a", "a (2)", "a (3)"]


def test_the_digest_follows_content_and_slices_keep_their_openers(photos):
    rows = [Sample(str(n)) for n in range(6)]
    whole = Samples(rows, open=lambda place, row: (place, row), digest="x")
    assert whole[2:4].open(1, whole[3])[0] == 3
    assert whole.digest == Samples(rows, digest="x").digest
    assert whole.digest != Samples(rows, digest="y").digest
    assert Samples(rows[:5]).digest != Samples(rows).digest


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("gone.csv", None, "does not exist"),
        ("bad.csv", "colour,size\nred,2\n", "none of path"),
        ("none.csv", "path\n", "no rows"),
        ("bad.json", "{", "cannot be read"),
        ("bad.xml", "<a>", "cannot be read"),
        ("data.xyz", "", "give a folder, a picture"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, name, content, told):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(LimelightError, match=told):
        samples(tmp_path / name)


def test_a_number_is_no_data_set():
    with pytest.raises(LimelightError, match="int is no data set"):
        samples(5)


def _faults(found: Samples) -> dict[int, str]:
    """What opening says of every row that cannot be had, by its place."""
    said = {}
    for place, row in enumerate(found.rows):
        try:
            found.open(place, row)
        except LimelightError as error:
            said[place] = str(error)
    return said


BAD_ROWS = {
    "a.csv": b'path,label\n"a.png","two\nlines"\nb.png\nc.png,3\n',
    "b.csv": b"path,label\nx\0.png,1\n\nb\xe9.png,2\nc.png,3\n",
    "c.csv": b"path,label\n" + b"a" * 140_000 + b',1\nb.png,2\nc.png,"3\n',
    "a.jsonl": b'{"path": "a.png"}\n\n{"path": \n{"path": "b.png", "label": "x\xe2\x80\xa8y"}\n',
    "b.jsonl": b"[" * 100_000 + b'\n{"path": "a.png", "label": "\\ud800"}\n{"path": "c.png"}\n',
    "c.jsonl": b'\xef\xbb\xbf{"text": "a"}\r\n{"text": 3}\r\n[1]\r\n{"text": "b"}\r\n',
}
BAD_LINES = {"a.csv": [4], "b.csv": [2, 4], "c.csv": [2, 4], "a.jsonl": [3], "b.jsonl": [1, 2],
             "c.jsonl": [2, 3]}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_says_its_line_and_the_others_stay(tmp_path, name):
    (tmp_path / name).write_bytes(BAD_ROWS[name])
    found = samples(tmp_path / name)
    said = list(_faults(found).values())
    assert len(said) == len(BAD_LINES[name]) < len(found)
    for text, line in zip(said, BAD_LINES[name], strict=True):
        assert text.startswith(f"line {line} of {name!r}")
    assert len(found.digest) == 16


def test_a_bad_parquet_row_says_which(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    paths = pa.array([b"a.png", b"\xe9.png", b"b.png"], pa.binary()).view(pa.string())
    parquet.write_table(pa.table({"path": paths}), tmp_path / "list.parquet")
    found = samples(tmp_path / "list.parquet")
    assert [row.name for row in found] == ["a.png", "row 2 of 'list.parquet'", "b.png"]
    assert list(_faults(found)) == [1]


def test_broken_boxes_are_named_and_their_pictures_stay(tmp_path):
    boxes = ("nan,0,3,3", "5,0,3,3", "x,0,2,2", ",1,2,2", "0,0,2,2")
    lines = [f"{n}.png,{n},{box}" for n, box in enumerate(boxes)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,left,top,right,bottom", *lines]))
    found = samples(tmp_path / "list.csv")
    said = list(_faults(found).values())
    words = ("line 2", "nan"), ("line 3", "inside"), ("line 4", "'x'"), ("line 5", "no left")
    assert all(a in text and b in text for text, (a, b) in zip(said, words, strict=True))
    assert [row.name for row in found if not row.fault] == [f"{n}.png" for n in range(5)]
    with pytest.raises(LimelightError, match="no inside"):
        Annotation(1, (0, 0, 0, 1))


def test_a_bad_annotation_of_coco_and_a_bad_file_of_voc_are_rows(tmp_path):
    category, image = {"id": 1, "name": "owl"}, {"id": 1, "file_name": "a.png"}
    good = {"id": 5, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2]}
    bad = [good | {"id": 6, "category_id": 7}, good | {"id": 7, "bbox": [0, 0, -1, 1]},
           good | {"id": 8, "image_id": 9}, good | {"id": 9, "bbox": [1, 2]}]  # fmt: skip
    raw = {"images": [image], "categories": [category], "annotations": [good, *bad]}
    (tmp_path / "coco.json").write_text(json.dumps(raw))
    said = " ".join(_faults(found := samples(tmp_path / "coco.json")).values())
    assert all(f"annotation id {n} of" in said for n in (6, 7, 8, 9))
    assert found[0].annotations[0] == Annotation("owl", (0, 0, 2, 2))
    folder = tmp_path / "voc" / "Annotations"
    folder.mkdir(parents=True)
    (folder / "1.xml").write_text("<annotation><filename>")
    (folder / "2.xml").write_text("<annotation><object><name>owl</name></object></annotation>")
    one, two, three = samples(tmp_path / "voc")
    assert "'1.xml' cannot be read" in one.fault
    assert not two.fault
    assert "object 1 of '2.xml' marks nothing: it has no bndbox" in three.fault


def test_a_picture_listed_twice_keeps_both_labels(tmp_path):
    (tmp_path / "list.csv").write_text("path,label\na.png,1\na.png,2\na.png,1\nb.png,1\n")
    first, second, again, other = samples(tmp_path / "list.csv")
    assert [(row.name, row.label) for row in (first, second, other)] == [
        ("a.png", 1),
        ("a.png (2)", 2),
        ("b.png", 1),
    ]
    assert again.fault == (
        "line 4 of 'list.csv' says of 'a.png' what line 2 of 'list.csv' says: it is left out"
    )


def test_a_quote_that_is_never_closed_says_what_it_takes_with_it(tmp_path):
    (tmp_path / "list.csv").write_text('path,label\na.png,1\nb.png,"2\nc.png,1\nd.png,1\n')
    good, lost = samples(tmp_path / "list.csv")
    assert good.name == "a.png"
    assert lost.fault.startswith("line 3 of 'list.csv' cannot be read")
    assert lost.fault.endswith("and with it the lines to 5: close its quote")


def test_what_is_missing_is_called_so(tmp_path):
    (tmp_path / "link").symlink_to("gone")
    (tmp_path / "loop").symlink_to("loop")
    for name, words in (("photos/", "does not exist"), ("link", "link to 'gone', which does not"),
                        ("loop", "leads nowhere")):  # fmt: skip
        with pytest.raises(LimelightError, match=words):
            samples(tmp_path / name)
    with pytest.raises(LimelightError, match="is an address"):
        samples("https://host/list.csv")

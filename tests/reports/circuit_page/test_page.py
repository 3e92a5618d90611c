"""The page of a circuit as text: its numbers, its words, its parts, what it leaves out."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html import unescape

import pandas
import pytest
import torch

import limelight as ll
from limelight.methods.circuits.judging.faithfulness import CircuitCheck
from limelight.methods.circuits.judging.ranking import curves
from limelight.methods.circuits.judging.truth import Truth
from limelight.methods.circuits.score import Score
from limelight.probe.errors import MethodError, OptionError
from limelight.reports.circuit_page.charts import LEFT, SIDE, TOP, curve_plots, forests, hues, parts
from limelight.reports.circuit_page.graph import graph, links
from limelight.reports.circuit_page.heads import _usage, codes_of
from limelight.reports.circuit_page.page import circuit_report, render_circuit
from limelight.reports.circuit_page.text import answers, example, tokens, verdicts

METHODS = ("attribution", "code_attr", "edge_attribution", "mutual_information", "norm")


@pytest.fixture(scope="module")
def found():
    torch.manual_seed(0)
    model = ll.load("induction_2l", "induction")
    return ll.circuit(model, "induction", METHODS, count=16, truth_pairs=4)


@pytest.fixture(scope="module")
def page(found):
    return render_circuit(found, heads=2, prompts=2, checked=4)


def embedded(page: str) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(text)


def words(page: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page.partition("<body>")[2])).split())


def test_the_page_is_self_contained(page):
    assert page.startswith("<!doctype html>")
    assert "default-src 'none'" in unescape(page)
    assert not re.search(r"(?:src|href)=[\"'](?!#|data:)", page)
    assert not re.search(r"<[^>]* style=", page.partition("<body>")[2].partition("<script")[0])


def test_the_data_are_the_scores(found, page):
    data = embedded(page)
    assert [m["name"] for m in data["methods"]] == list(METHODS)
    assert data["heads"] == ["0.0", "0.1", "0.2", "0.3", "1.0", "1.1", "1.2", "1.3"]
    for method in data["methods"]:
        score = found.scores[method["name"]]
        assert method["values"] == pytest.approx(score.values.tolist(), rel=1e-3)
        assert (method["null"] is None) == (score.null is None)
    assert data["methods"][0]["p"] == pytest.approx(found.score().p.tolist(), rel=1e-3)
    assert data["inside"] == found.truth.inside.tolist()
    assert data["effects"] == pytest.approx(found.truth.effects.tolist(), rel=1e-3)


def test_every_part_is_there(found, page):
    text = words(page)
    for title in ("What was found", "Evaluation", "All heads", "Curves", "Graph", "Faithfulness"):
        assert title in text
    first, second = (f"{a}.{b}" for a, b in found.top(2))
    assert f"Head {first} number 1 by attribution" in text
    assert f"Head {second} number 2 by attribution" in text
    assert page.count('class="panel-of head-of"') == 2
    assert len(re.findall(r'<g class="cell[^"]*"', page)) == 8
    inside = sum(found.truth.inside.tolist())
    assert len(re.findall(r'<g class="cell inside', page)) == inside
    row = found.evaluation.iloc[0]
    gain = row["ap"] - row["ap_null"]
    assert f"{row['ap']:.3f}" in text
    assert f"{gain:.3f}" in text
    assert "Keep in mind" in text
    assert "not by AUC" in text
    assert "templates 1" in text
    assert "corrupt forward of all pairs, shared" in text


def test_maps_are_those_of_the_model(found, page):
    import base64

    data = embedded(page)
    layer, head = found.top(1)[0]
    place = found.names.index((layer, head))
    pair = found.pairs[1]
    model = found.evidence.model
    (value,) = ll.trace(model, pair.clean[None], sites=[f"layers.{layer}.attn:map"]).values()
    kept = data["maps"][str(place)][1]
    codes = torch.frombuffer(bytearray(base64.b64decode(kept["bytes"])), dtype=torch.uint8)
    got = codes.reshape(kept["size"]).double() / 255 * kept["top"]
    assert (got - value.act[0, head]).abs().max() <= kept["top"] / 255
    assert data["prompts"][1]["words"] == [str(i) for i in pair.clean.tolist()]


def test_roles_say_what_the_circuit_is_made_of(page):
    text = words(page)
    values = re.findall(r"previous_token [^0-9]*?([\d.]+) induction [^0-9]*?([\d.]+)", text)
    assert not values or all(float(b) > 0.5 for _, b in values)
    assert page.count('class="bars-of roles"') == 2


def test_words_on_tokens_and_answers(found):
    told = example(found)
    pair = found.pairs[0]
    assert [word for word, _ in told.clean] == [str(i) for i in pair.clean.tolist()]
    assert [d for _, d in told.clean] == (pair.clean != pair.corrupt).tolist()
    assert told.good == f"“{pair.good[0]}”"
    named = replace(pair, words=tuple(" a\n" for _ in pair.clean))
    assert tokens(named) == (" a⏎",) * len(pair.clean)
    assert answers(found, (3, 4)) == ["3", "4"]


def test_verdicts_read_average_precision_against_the_null(found):
    table = pandas.DataFrame(
        {
            "method": ["attribution", "code_attr", "norm"],
            "ap": [0.8, 0.7, 0.9],
            "ap_null": [0.5, 0.68, math.nan],
            "ap_low": [0.1, -0.1, math.nan],
            "ap_high": [0.4, 0.2, math.nan],
        }
    )
    told = verdicts(replace(found, evaluation=table))
    assert told[0] == (
        "attribution has the largest average precision, 0.800; the best control is norm, 0.900."
    )
    assert told[1].endswith("interval: attribution.")
    assert told[2] == "Not clearly above their nulls: code_attr."
    assert forests(table)["attribution"].title == "0.300, 95 % interval 0.100 to 0.400"


def test_curves_end_where_they_must(found):
    plots = curve_plots(found, hues(METHODS))
    assert [plot.hue for plot in plots] == [0, 1, 2, 3, -1]
    top = f"{LEFT + SIDE}.0 {TOP}.0"
    assert all(plot.roc.endswith(top) for plot in plots)
    assert all(plot.recall.endswith(f"H{LEFT + SIDE}.0") for plot in plots)


def test_the_area_under_the_drawn_steps_is_average_precision(found):
    truth = Truth("t", "v", torch.tensor([1, 0, 1, 0, 0, 1, 0, 0]).bool())
    score = Score(torch.tensor([8.0, 7, 6, 5, 4, 3, 2, 1]))
    table = pandas.DataFrame({"method": ["a"], "ap": [0.0], "auc": [0.0]})
    one = replace(found, truth=truth, scores={"a": score}, evaluation=table)
    path = curve_plots(one, {"a": 0})[0].recall
    steps = re.findall(r"([\d.]+) H([\d.]+)", path)
    area, last = 0.0, float(LEFT)
    for y, x in steps:
        area += (1 - (float(y) - TOP) / SIDE) * (float(x) - last) / SIDE
        last = float(x)
    points = curves(score, truth)
    assert points["recall"][0] == 1
    assert area == pytest.approx((1 + 2 / 3 + 3 / 6) / 3, abs=1e-3)


def test_the_graph_holds_the_largest_edges(found):
    score = found.score("edge_attribution")
    kept = links(found, "edge_attribution", 5)
    sizes = [abs(value) for _, _, value in kept]
    assert sizes == sorted(sizes, reverse=True)
    every = [*score.facts["signed edges"].flatten().tolist(), *score.facts["to output"].tolist()]
    assert sizes == pytest.approx(sorted(map(abs, every), reverse=True)[:5])
    drawn = graph(found, count=5)
    assert len(drawn.edges) == 5
    assert drawn.edges[-1].width == 7
    assert drawn.nodes[-1].name == "output"
    assert graph(replace(found, scores={"norm": found.scores["norm"]})) is None


def test_code_usage_counts_both_sides(found):
    codes = torch.tensor([0, 0, 1, 2, 2, 2, 2, 2])
    usage = _usage("m", codes)
    assert usage.bars == (("2", 0.25, 1.0), ("0", 0.5, 0.0), ("1", 0.25, 0.0))
    assert usage.most == 1.0
    assert len(_usage("m", torch.arange(60)).bars) == 20
    assert _usage("m", torch.arange(60)).rest == (0.3333, 1.0)
    whole = torch.arange(24).reshape(3, 8)
    assert torch.equal(codes_of(whole, 1, 3, 8), whole[1])
    assert torch.equal(codes_of(whole.T.contiguous(), 1, 3, 8), whole[1])
    assert torch.equal(codes_of(torch.stack([whole.T, whole.T + 1]), 1, 3, 8), whole[1])
    assert codes_of(torch.zeros(2, 5), 0, 3, 8) is None


def test_minimality_bars_leave_room_for_harm():
    check = CircuitCheck(0.9, 0.1, {(0, 1): 0.6, (1, 0): -0.2}, (0.1, 0.05))
    bars, zero = parts(check, {(0, 1): 1, (1, 0): 2})
    assert zero == 25
    assert [(b.name, b.left, b.width, b.helps) for b in bars] == [
        ("0.1", 25, 75, True),
        ("1.0", 0, 25, False),
    ]


def test_without_a_truth_nothing_is_judged(found):
    table = pandas.DataFrame({"method": ["norm"], "chance": [""], "seconds": [0.1]})
    bare = replace(
        found, truth=None, scores={"norm": found.scores["norm"]}, evaluation=table, _kept={}
    )
    text = words(render_circuit(bare, heads=1, prompts=0, checked=2))
    assert "No circuit is known for this task" in text
    for absent in ("Evaluation", "ROC curve", "largest edges"):
        assert absent not in text
    assert "No prompt was drawn" in text or "No prompt is short enough" in text


def test_what_cannot_be_verified_is_said(found, monkeypatch):
    def fail(*_, **__):
        raise OptionError("the metric is the same with all heads and with none")

    monkeypatch.setattr(type(found), "verify", fail)
    text = words(render_circuit(found, heads=0, prompts=0))
    assert "Not measured: the metric is the same with all heads and with none" in text


def test_methods_are_chosen_and_errors_are_one_sentence(found, tmp_path):
    path = circuit_report(
        found, tmp_path / "c.html", heads=0, prompts=0, methods=["norm", "code_attr"], checked=2
    )
    data = embedded(path.read_text(encoding="utf-8"))
    assert [m["name"] for m in data["methods"]] == ["norm", "code_attr"]
    with pytest.raises(OptionError, match=r"0 heads, prompts and checked pairs or more, not -1"):
        circuit_report(found, tmp_path / "c.html", heads=-1)
    with pytest.raises(MethodError, match=r"method 'acdc' was not run here"):
        circuit_report(found, tmp_path / "c.html", methods=["acdc"])


def test_text_cannot_break_out_of_the_page(found):
    nasty = "</script><b>"
    pair = found.pairs[0]
    named = replace(pair, words=(nasty,) * len(pair.clean), other=(nasty,) * len(pair.clean))
    evidence = found.evidence
    before = evidence.pairs
    try:
        evidence.pairs = replace(before, pairs=(named, *before.pairs[1:]))
        page = render_circuit(found, heads=1, prompts=1, checked=2)
    finally:
        evidence.pairs = before
    assert "</script><b>" not in page
    assert embedded(page)["prompts"][0]["words"][0] == nasty

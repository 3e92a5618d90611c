"""The whole call: many methods on one set of activations, judged by a truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from circuit_models import induction_evidence, induction_model, ragged_pairs, small_llama
from sklearn.metrics import average_precision_score, roc_auc_score

import limelight as ll
from limelight.methods.circuits.codes.set_scores import node_score
from limelight.methods.circuits.evidence import Evidence
from limelight.methods.circuits.judging.ranking import curves, evaluate
from limelight.methods.circuits.judging.truth import PUBLISHED, Truth, measured, truth
from limelight.methods.circuits.score import Score
from limelight.methods.circuits.significance import label_permutations
from limelight.probe.errors import MethodError, OptionError, SiteError

FAST = ["attribution", "code_attr:8", "edge_attribution", "mean_difference", "norm"]


@pytest.fixture(scope="module")
def found():
    return ll.circuit(induction_model(), "induction", FAST, count=16, truth_pairs=8)


def test_a_prompt_longer_than_the_model_takes_is_refused_before_any_pass(monkeypatch):
    net = induction_model()
    ids = torch.zeros(20_000, dtype=torch.long)
    pairs = [ll.Pair(ids, ids + 1, (1,), (2,))] * 4
    monkeypatch.setattr(net, "forward", None)
    with pytest.raises(OptionError, match=r"20,000 tokens, but the model is given 8,192 at most"):
        ll.circuit(net, ll.Pairs("long", tuple(pairs)), ["norm"], truth=None)


def test_every_method_scores_every_head(found):
    table = found.table()
    assert list(found.scores) == ["attribution", "code_attr,codes=8", *FAST[2:]]
    assert len(table) == 5 * 8
    assert table.p.dropna().between(0, 1).all()
    assert found.top(1, "attribution")[0] in found.names
    assert found.notes == ()
    assert found.pairs.name == "induction"
    assert len(found.pairs) == 16


def test_evaluation_has_nulls_beside_every_score(found):
    rows = found.evaluation.set_index("method")
    assert rows.loc["attribution", "ap"] >= rows.loc["attribution", "ap_null"]
    assert math.isnan(rows.loc["norm", "ap_null"])
    assert rows.chance["mean_difference"] == "sides of pairs exchanged"
    assert rows.seconds.gt(0).all()


def test_edges_verdict_and_curve(found):
    edges = found.edges(count=5)
    assert (edges.from_layer < edges.to_layer).all()
    assert edges.score.is_monotonic_decreasing
    assert found.curve() is found.curve()
    assert set(found.verify(3, draws=2).minimality) == set(found.top(3))
    with pytest.raises(MethodError, match="heads only"):
        found.edges("norm")
    with pytest.raises(MethodError, match="was not run here"):
        found.score("acdc")


@pytest.mark.parametrize("name", [m.name for m in ll.list_methods() if m.kind == "circuit"])
def test_every_circuit_method_scores_ragged_prompts_on_any_model(name):
    """Random weights, grouped keys, MLPs, prompts of two lengths; the same call twice is equal."""
    once, again = (ll.use(name)(Evidence(small_llama(), ragged_pairs())) for _ in range(2))
    values, second = (s.values if isinstance(s, Score) else s for s in (once, again))
    assert values.shape == (18,)
    assert values.isfinite().all()
    torch.testing.assert_close(values, second)
    if isinstance(once, Score) and once.null is not None:
        assert once.null.shape[1:] == (18,)
        assert once.chance


def test_saved_tables_are_parquet(found, tmp_path):
    import pandas as pd

    folder = found.save(tmp_path / "run")
    assert len(pd.read_parquet(folder / "scores.parquet")) == 40
    assert len(pd.read_parquet(folder / "evaluation.parquet")) == 5


def test_the_same_seed_gives_the_same_numbers(found):
    again = ll.circuit(induction_model(), "induction", FAST, count=16, truth_pairs=8)
    for name, score in found.scores.items():
        torch.testing.assert_close(score.values, again.scores[name].values)


def test_a_plug_in_scores_heads_too():
    @ll.circuit_method("test_of_last", needs=("activations",))
    def last(evidence, *, power: float = 1.0):
        """Norm at the last position."""
        return evidence.clean.z[evidence.last].norm(dim=-1).mean(0) ** power

    made = ll.circuit(induction_model(), "induction", ["test_of_last:2"], count=4, truth=[(0, 2)])
    assert made.truth.inside.tolist() == [False, False, True] + [False] * 5
    assert "ap" in made.evaluation


def test_bad_requests_are_told():
    net = induction_model()
    with pytest.raises(MethodError, match="makes maps"):
        ll.circuit(net, "induction", ["gradcam"], count=4)
    with pytest.raises(OptionError, match="would measure the truth"):
        ll.circuit(net, ll.task("induction", 64, count=5), ["norm"], truth_pairs=16)
    with pytest.raises(OptionError, match="truth 'ioi' is unknown"):
        ll.circuit(net, "induction", ["norm"], truth="ioi", count=4)
    with pytest.raises(SiteError, match=r"head 2\.2 was asked"):
        ll.circuit(net, "induction", ["norm"], truth="ioi:sae", count=4)


def test_published_circuits_are_those_of_the_sheet():
    assert len(PUBLISHED["ioi:sae"].heads) == 26
    assert set(PUBLISHED["ioi:sae"].heads) ^ set(PUBLISHED["ioi:acdc"].heads) == {(9, 0), (11, 3)}
    assert len(PUBLISHED["greater_than:sae"].heads) == 9
    assert set(PUBLISHED["docstring:sae"].heads) ^ set(PUBLISHED["docstring:acdc"].heads) == {
        (1, 0),
        (1, 2),
    }


def test_published_edges_lead_upwards_between_their_own_heads():
    ioi = PUBLISHED["ioi:acdc"]
    names = {"input", "output", *ioi.groups}
    assert {end for a, b, _ in ioi.edges for end in (a, b)} <= names
    docstring = PUBLISHED["docstring:acdc"]
    assert len(docstring.edges) == 12
    for a, b, into in docstring.edges:
        assert a[0] < b[0]
        assert {a, b} <= set(docstring.heads)
        assert set(into) <= set("qkv")


def test_a_measured_truth_is_the_largest_effects():
    evidence = induction_evidence()
    known = measured(evidence, most=3)
    assert known.inside.sum() == 3
    assert known.effects.abs()[known.inside].min() >= known.effects.abs()[~known.inside].max()
    assert "resample ablation on 12 pairs" in known.version
    strict = measured(evidence, most=3, least=0.5)
    assert strict.inside.tolist() == [False, False, True] + [False] * 5
    assert truth([(1, 1)], evidence.outputs).inside[5]


def test_figures_are_those_of_their_formulas():
    generator = torch.Generator().manual_seed(0)
    inside = torch.rand(40, generator=generator) < 0.3
    values = torch.rand(40, generator=generator) + inside * 0.4
    null = torch.rand(30, 40, generator=generator)
    effects = torch.rand(40, generator=generator)
    score = Score(values, null, spread=torch.stack([values, null[0]]))
    found = evaluate(score, Truth("t", "v", inside, effects))
    assert found["auc"] == pytest.approx(roc_auc_score(inside, values))
    assert found["ap"] == pytest.approx(average_precision_score(inside, values))
    from scipy.stats import spearmanr

    assert found["spearman"] == pytest.approx(spearmanr(values, effects).statistic)
    top = values.argsort(descending=True)[: inside.sum()]
    assert found["precision_k"] == pytest.approx(inside[top].float().mean().item())
    rows = [average_precision_score(inside, row) for row in null]
    assert found["ap_null"] == pytest.approx(np.mean(rows))
    assert found["ap_low"] <= found["ap"] - found["ap_null"] <= found["ap_high"]
    f1, bal = 0.0, 0.0
    for threshold in values.tolist():
        taken = values >= threshold
        hits = (taken & inside).sum().item()
        precision, recall = hits / taken.sum().item(), hits / inside.sum().item()
        if hits:
            f1 = max(f1, 2 * precision * recall / (precision + recall))
        rest = (taken & ~inside).sum().item() / (~inside).sum().item()
        if recall:
            bal = max(bal, 2 * recall * (1 - rest) / (recall + 1 - rest))
    assert found["f1"] == pytest.approx(f1)
    assert found["bal_f1"] == pytest.approx(bal)
    assert found["ap_sd"] > 0
    points = curves(score, Truth("t", "v", inside))
    assert points["fpr"][0] == 0
    assert points["tpr"][-1] == 1


def test_a_truth_of_all_or_no_heads_judges_nothing():
    with pytest.raises(OptionError, match="some heads"):
        evaluate(Score(torch.zeros(3)), Truth("t", "v", torch.ones(3, dtype=torch.bool)))


def test_the_published_scores_and_their_controls_come_by_default():
    """They share one training; a control that ties with them is no error, it is the finding."""
    net = induction_model()
    made = ll.circuit(net, "induction", None, count=12, truth_pairs=8)
    names = list(made.scores)
    assert {"discrete_sae", "untrained_sae", "null_split", "diversity", "norm"} <= set(names)
    published = made.score("discrete_sae")
    assert published.spread.shape == (5, 8)
    assert published.facts["codes"].shape == (5, 24, 8)
    labels = made.evidence.labels
    codes = published.facts["codes"][0]
    sets = [(set(codes[labels, h].tolist()), set(codes[~labels, h].tolist())) for h in range(8)]
    assert published.spread[0].tolist() == [len(a - b) for a, b in sets]
    again = label_permutations(labels, 20, torch.Generator().manual_seed(0))
    null = torch.stack([node_score(published.facts["codes"], row).float().mean(0) for row in again])
    torch.testing.assert_close(published.null, null)
    edges = made.score("discrete_sae_edge").edges
    layer = made.evidence.outputs.layer
    assert (edges[layer[:, None] >= layer[None]] == 0).all()
    other = ll.circuit(net, "induction", ["discrete_sae:kmeans,codes=6"], count=12, truth=None)
    assert other.score().spread.shape == (5, 8)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"count": 0}, "circuit takes count of 1 or more, not count=0"),
        ({"count": 1.5}, "circuit: count is a whole number, not 1.5"),
        ({"batch": -1}, "circuit takes batch of 1 or more, not batch=-1"),
        ({"truth_pairs": 0}, "circuit takes truth_pairs of 1 or more, not truth_pairs=0"),
        ({"truth": 0}, r"heads are \(layer, number\), as \[\(0, 1\), \(2, 3\)\], not 0"),
        ({"truth": "ab"}, "truth 'ab' is unknown"),
        ({"methods": "attribution,steps=0"}, "attribution takes steps of 1 or more, not steps=0"),
        ({"methods": "acdc,threshold=-1"}, "acdc takes threshold of 0 or more"),
        ({"methods": "acdc,threshold=nan"}, "acdc: threshold is a finite number, not 'nan'"),
        ({"methods": "linear_probe,folds=1"}, "linear_probe takes folds of 2 or more"),
        ({"methods": "code_attr,codes=0"}, "code_attr takes codes of 1 or more"),
        ({"methods": "discrete_sae,steps=-1"}, "discrete_sae takes steps of 0 or more"),
        ({"methods": "path_patching,heads=0"}, "path_patching takes heads of 1 or more"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(asked, words):
    with pytest.raises(OptionError, match=words):
        ll.circuit(**{"model": ll.load("induction_2l"), "pairs": "induction", "count": 4, **asked})


def test_questions_that_cannot_be_meant_are_refused():
    found = ll.circuit(ll.load("induction_2l"), "induction", "norm", truth=None, count=4)
    for ask, words in (
        (lambda: found.top(-1), "top takes count of 0 or more"),
        (lambda: found.top(1.5), "top: count is a whole number"),
        (lambda: found.edges(count=-1), "edges takes count of 0 or more"),
        (lambda: found.verify("ab"), r"heads are \(layer, number\)"),
        (lambda: found.verify([(0, 1)], draws=0), "verify takes draws of 1 or more"),
        (lambda: found.curve(pairs=-1), "curve takes pairs of 0 or more"),
    ):
        with pytest.raises(OptionError, match=words):
            ask()

"""Exact patching, edges, ACDC and verification against slow and plain versions."""

from __future__ import annotations

import pytest
import torch
from circuit_models import (
    induction_evidence,
    induction_model,
    llama_evidence,
    ragged_pairs,
    small_llama,
)

import limelight as ll
from limelight.methods.circuits.evidence import Evidence
from limelight.methods.circuits.interventions import each_head, replacement
from limelight.methods.circuits.judging.faithfulness import (
    curve,
    kept_metric,
    kept_share,
    random_circuits,
    verify,
)
from limelight.methods.circuits.scores.acdc import Wiring, acdc
from limelight.methods.circuits.scores.activation_patching import ablation, activation_patching
from limelight.methods.circuits.scores.attribution_patching import attribution
from limelight.methods.circuits.scores.edges import edge_attribution, path_effects, path_patching
from limelight.probe.errors import OptionError


def swapped(evidence, pair: int, side: str, heads: dict[int, torch.Tensor]) -> float:
    """The metric with some heads' z replaced, one plain forward."""
    pairs = evidence.pairs[pair : pair + 1]
    x = (pairs[0].clean if side == "clean" else pairs[0].corrupt)[None]
    edits = {}
    for layer, o in enumerate(evidence.outputs.layers):
        span = evidence.outputs.span(layer)

        def change(z, span=span):
            z = z.clone()
            for head, value in heads.items():
                if span.start <= head < span.stop:
                    z[0, :, head - span.start] = value
            return z

        edits[o.site] = o.edit(change)
    return ll.patch(evidence.model, x, edits, target=pairs.target()).item()


@pytest.mark.parametrize("side", ["clean", "corrupt"])
@pytest.mark.parametrize("by", ["zero", "mean", "resample"])
def test_patching_from_the_middle_equals_plain_forwards(side, by):
    evidence = llama_evidence()
    new = replacement(evidence, by)
    found = each_head(evidence, side, new, 4)
    for pair in (0, 3):
        for head in (0, 7, 17):
            z = new[evidence.rows([pair])][:, head]
            assert found[pair, head].item() == pytest.approx(
                swapped(evidence, pair, side, {head: z}), abs=1e-4
            )
    assert "forward" not in vars(small_llama().model.layers[0])


def test_ablation_and_activation_patching_count_in_shares_of_the_fall():
    evidence = induction_evidence()
    fall = (evidence.clean.metric - evidence.corrupt.metric).mean()
    rows = evidence.rows([0])
    lost = evidence.clean.metric[0] - swapped(
        evidence, 0, "clean", {2: evidence.corrupt.z[rows][:, 2]}
    )
    one = ablation(evidence, pairs=1)
    assert one.signed[2].item() == pytest.approx((lost / fall).item(), abs=1e-4)
    back = swapped(evidence, 0, "corrupt", {2: evidence.clean.z[rows][:, 2]})
    again = activation_patching(evidence, pairs=1)
    expected = (back - evidence.corrupt.metric[0]) / fall
    assert again.signed[2].item() == pytest.approx(expected.item(), abs=1e-4)
    assert ablation(evidence).values.argmax() == 2  # the one previous-token head
    with pytest.raises(OptionError, match="'zero', 'mean' or 'resample'"):
        replacement(evidence, "noise")  # type: ignore[arg-type]


def test_patching_works_on_heads_of_a_vision_model():
    net = ll.load("convit_digits", "digits")
    torch.manual_seed(0)
    pictures = torch.randn(2, 3, 3, 32, 32)
    pairs = ll.picture_pairs(*pictures, good=3, bad=5, name="noise")
    methods = [
        "attribution",
        "ablation",
        "edge_attribution",
        "direct_logit",
        "path_patching",
        "acdc",
    ]
    found = ll.circuit(net, pairs, methods, truth=None)
    assert len(found.table()) == 6 * 16
    assert found.truth is None
    assert found.evidence.clean.z.shape == (3 * 65, 16, 16)
    assert (found.evidence.clean.z[0, :12] == 0).all()  # the class token comes with the last layer
    assert (found.score("attribution").values > 0).all()
    evidence = found.evidence
    new = replacement(evidence, "resample")
    for head in (0, 15):
        z = new[evidence.rows([1])][-64 - (head > 11) :, head]
        expected = swapped(evidence, 1, "clean", {head: z})
        assert each_head(evidence, "clean", new, 2)[1, head].item() == pytest.approx(
            expected, abs=1e-4
        )
    assert found.verify(4, draws=2).faithfulness == found.verify(4, draws=2).faithfulness


def test_edges_of_two_layers_of_attention_add_up_to_attribution():
    """Without MLPs what a head does, it does through heads above or directly."""
    evidence = induction_evidence()
    score = edge_attribution(evidence)
    edges, out = score.facts["signed edges"], score.facts["to output"]
    torch.testing.assert_close(
        edges.sum(1) + out, attribution(evidence).signed, rtol=1e-3, atol=1e-4
    )
    assert (edges[4:] == 0).all()
    assert (edges[:, :4] == 0).all()


def test_integrated_edges_add_up_to_integrated_attribution():
    evidence = induction_evidence()
    score = edge_attribution(evidence, steps=3)
    edges, out = score.facts["signed edges"], score.facts["to output"]
    expected = attribution(evidence, steps=3).signed
    torch.testing.assert_close(edges.sum(1) + out, expected, rtol=1e-3, atol=1e-3)


def test_a_backward_without_batches_gives_the_same_edges(monkeypatch):
    evidence, plain = llama_evidence(), torch.autograd.grad
    expected = edge_attribution(evidence).edges

    def one_by_one(*args, is_grads_batched=False, **kwargs):
        if is_grads_batched:
            raise RuntimeError("vmap over an op without a rule")
        return plain(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", one_by_one)
    again = Evidence(evidence.model, evidence.pairs, outputs=evidence.outputs)
    torch.testing.assert_close(edge_attribution(again).edges, expected, rtol=1e-4, atol=1e-5)


def test_random_circuits_have_as_many_heads_in_every_layer():
    evidence = llama_evidence()
    inside = torch.zeros(18, dtype=torch.bool)
    inside[[0, 1, 7, 12, 13, 14]] = True
    drawn = random_circuits(evidence, inside, 50, 0)
    assert (drawn.unflatten(1, (3, 6)).sum(2) == torch.tensor([2, 1, 3])).all()
    assert len(drawn.unique(dim=0)) > 25


def test_integrated_edges_differ_and_stay_forward():
    evidence = llama_evidence()
    one, three = edge_attribution(evidence), edge_attribution(evidence, steps=3)
    assert not torch.allclose(one.edges, three.edges)
    layer = evidence.outputs.layer
    assert (three.edges[layer[:, None] >= layer[None]] == 0).all()


def test_path_patching_equals_its_definition():
    evidence = llama_evidence()
    u, v = 1, 14
    found = path_effects(evidence, [u], [v])
    fall = (evidence.clean.metric - evidence.corrupt.metric).mean().item()
    total = 0.0
    for pair in range(len(evidence.pairs)):
        rows = evidence.rows([pair])
        held = evidence.clean.z[rows].clone()
        held[:, u] = evidence.corrupt.z[rows][:, u]
        edits = {}
        for layer, o in enumerate(evidence.outputs.layers):
            if layer < 2:
                span = evidence.outputs.span(layer)
                edits[o.site] = o.edit(lambda z, span=span, held=held: held[None, :, span])
        site = evidence.outputs.layers[2].site
        x = evidence.pairs[pair].clean[None]
        heard = ll.trace(evidence.model, x, sites=site, edits=edits)[site].act
        z = evidence.outputs.layers[2].split(heard)[0, :, v - 12]
        total += evidence.clean.metric[pair].item() - swapped(evidence, pair, "clean", {v: z})
    assert found[u, v].item() == pytest.approx(total / 6 / fall, abs=1e-4)
    tried = path_patching(evidence, heads=3, pairs=2)
    assert len(tried.facts["tried"]) == 3
    assert (tried.values > 0).sum() <= 3


@pytest.mark.parametrize("evidence", [llama_evidence, induction_evidence])
def test_wiring_with_no_corrupt_edge_is_clean(evidence):
    wiring = Wiring(evidence(), 4)
    assert wiring.cost("kl") == pytest.approx(0, abs=1e-5)
    assert wiring.cost("metric") == pytest.approx(0, abs=1e-4)


def test_wiring_with_all_edges_corrupt_is_the_corrupt_output():
    """Attention alone has no other way from the input to the output than edges."""
    evidence = induction_evidence()
    wiring = Wiring(evidence, len(evidence.pairs))
    wiring.corrupt[:4, 4:8] = True
    wiring.corrupt[: wiring.input, wiring.output] = True
    wiring.corrupt[wiring.input, :] = True
    assert wiring.cost("metric") == pytest.approx(1, abs=1e-4)


def test_acdc_keeps_the_induction_circuit():
    score = acdc(induction_evidence(), threshold=0.02, by="metric")
    assert score.values[2] > 0  # head 0.2 looks one token back
    assert (score.values[4:] > 0).any()
    assert score.edges[2, 4:].max() > 0
    nothing = acdc(induction_evidence(), threshold=1e9)
    assert (nothing.values == 0).all()


def test_all_heads_are_faithful_and_none_are_not():
    evidence = induction_evidence()
    ends = torch.tensor([[True] * 8, [False] * 8, [False] * 4 + [True] * 4])
    shares = kept_share(evidence, ends)
    assert shares[0].item() == pytest.approx(1)
    assert shares[1].item() == pytest.approx(0)
    metric = kept_metric(evidence, ends, "resample")
    torch.testing.assert_close(metric[0], evidence.clean.metric, rtol=1e-4, atol=1e-4)
    rows = evidence.rows([1])
    z = {head: evidence.corrupt.z[rows][:, head] for head in range(4)}
    assert metric[2, 1].item() == pytest.approx(swapped(evidence, 1, "clean", z), abs=1e-4)


def test_the_induction_circuit_is_verified():
    evidence = induction_evidence()
    circuit = [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3)]
    found = verify(evidence, circuit)
    assert found.faithfulness > 0.8
    assert found.completeness < 0.2
    assert found.random[0] < found.faithfulness
    assert found.minimality[0, 2] > 0.3
    assert set(found.minimality) == set(circuit)
    table = curve(evidence, ablation(evidence).values)
    assert table.heads.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert table.faithfulness.iloc[-1] > 0.8
    with pytest.raises(OptionError, match="no heads"):
        verify(evidence, [])


def test_a_task_that_the_model_cannot_do_is_said_so():
    pairs = ragged_pairs()
    same = ll.Pairs("same", tuple(ll.Pair(p.clean, p.clean, p.good, p.bad) for p in pairs))
    with pytest.raises(OptionError, match="does not fall"):
        ll.circuit(small_llama(), same, ["ablation"], truth=None)


def test_models_keep_their_forward():
    assert "forward" not in vars(induction_model().layers[0])

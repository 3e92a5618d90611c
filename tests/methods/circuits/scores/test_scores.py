"""Scores of heads against closed forms, other libraries and each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from circuit_models import induction_evidence, llama_evidence, ragged_pairs, small_llama
from sklearn.cluster import KMeans
from sklearn.linear_model import Ridge
from sklearn.metrics import mutual_info_score

import limelight as ll
from limelight.methods.circuits.codes.quantise import (
    coder,
    compact,
    kmeans,
    nearest,
    residual_coordinates,
)
from limelight.methods.circuits.score import Score, as_score
from limelight.methods.circuits.scores.attribution_patching import attribution, direct_logit
from limelight.methods.circuits.scores.code_attribution import code_attribution
from limelight.methods.circuits.scores.label_statistics import (
    linear_probe,
    mean_difference,
    mutual_information,
    norm,
)
from limelight.probe.errors import MethodError, OptionError


def test_attribution_is_gradient_times_change():
    evidence = llama_evidence()
    expected = torch.zeros(6, 18)
    for i in range(6):
        rows = evidence.rows([i])
        change = evidence.corrupt.z[rows] - evidence.clean.z[rows]
        expected[i] = (evidence.gradient[rows] * change).sum((0, 2))
    score = attribution(evidence)
    torch.testing.assert_close(score.values, expected.mean(0).abs())
    torch.testing.assert_close(score.signed, expected.mean(0))
    assert score.null.shape == (100, 18)
    assert (score.null <= expected.abs().mean(0) + 1e-6).all()
    spread = expected.square().sum(0) / 36  # of a mean of six effects with random signs
    variance = score.null.square().mean(0)
    assert ((variance / spread - 1).abs() < 0.5).all()


def test_integrated_attribution_approaches_the_change_of_the_metric():
    """Gradients along the whole path add up to the metric's change, over heads and the rest."""
    evidence = induction_evidence()
    one, many = attribution(evidence), attribution(evidence, steps=4)
    assert not torch.allclose(one.values, many.values, rtol=1e-2)
    coded = code_attribution(evidence, codes=10**6, cross=False, steps=4)
    torch.testing.assert_close(coded.values, many.values, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(attribution(evidence, steps=4).values, many.values)


@pytest.mark.parametrize("evidence", [llama_evidence, induction_evidence])
def test_code_attribution_with_a_code_for_every_point_is_attribution_patching(evidence):
    plain = attribution(evidence())
    coded = code_attribution(evidence(), codes=10**6, cross=False)
    torch.testing.assert_close(coded.values, plain.values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["kmeans", "product"])
def test_codes_are_fitted_on_pairs_that_are_not_scored(kind):
    evidence = induction_evidence()
    score = code_attribution(evidence, codes=4, kind=kind)
    weight, head = residual_coordinates(evidence.outputs.weight), 5
    total = torch.zeros(())
    for half in (0, 1):
        fit, use = (torch.arange(half ^ other, 12, 2).tolist() for other in (0, 1))
        points = [side.z[evidence.rows(fit)] for side in (evidence.clean, evidence.corrupt)]
        z = torch.cat(points).transpose(0, 1)
        encode = coder(z @ weight, 4, kind, seed=half)
        near = encode(z @ weight)[head]
        for pair in use:
            rows = evidence.rows([pair])
            sides = []
            for side in (evidence.corrupt, evidence.clean):
                own = side.z[rows].transpose(0, 1)
                codes = encode(own @ weight)[head]
                known = [z[head][near == code].mean(0) for code in codes]  # NaN: a code of no point
                sides.append(torch.stack(known).where(~torch.stack(known).isnan(), own[head]))
            total += (evidence.gradient[rows][:, head] * (sides[0] - sides[1])).sum()
    torch.testing.assert_close(score.signed[head], total / 12, rtol=1e-3, atol=1e-4)
    with pytest.raises(OptionError, match="at least 4 pairs"):
        code_attribution(type(evidence)(evidence.model, evidence.pairs[:3]))


def test_direct_logits_of_all_parts_add_up_to_the_metric():
    """With the final norm held, heads, biases and embedding together make good minus bad."""
    net, pairs = small_llama(), ragged_pairs()
    evidence = llama_evidence()
    from limelight.methods.circuits.scores.attribution_patching import final_slope

    slope = final_slope(evidence, held=True)
    for i, pair in enumerate(pairs):
        last = ll.trace(net, pair.clean[None], sites="model.layers.2")["model.layers.2"].act
        total = (slope[evidence.rows([i])] * last[0]).sum()
        torch.testing.assert_close(total, evidence.clean.metric[i], rtol=1e-4, atol=1e-4)
    values = direct_logit(evidence).signed
    difference = direct_logit(evidence, of="difference").signed
    assert not torch.allclose(values, difference)


def test_residual_coordinates_keep_distances():
    torch.manual_seed(0)
    weight, z = torch.randn(3, 4, 9), torch.randn(3, 5, 4)
    y = z @ residual_coordinates(weight)
    torch.testing.assert_close(torch.cdist(y, y), torch.cdist(z @ weight, z @ weight))
    thin = torch.randn(3, 4, 1) @ torch.randn(3, 1, 9)  # of rank one
    y = z @ residual_coordinates(thin)
    torch.testing.assert_close(y @ y.mT, (z @ thin) @ (z @ thin).mT, rtol=1e-4, atol=1e-4)


def test_kmeans_is_as_good_as_scikit_learns():
    torch.manual_seed(0)
    y = torch.randn(3, 200, 6) + 4 * torch.randn(3, 1, 6) * torch.randint(0, 3, (3, 200, 1))
    centres = kmeans(y, 8, rounds=50)
    near = nearest(y, centres)
    own = (y - centres.gather(1, near[..., None].expand(-1, -1, 6))).square().sum((1, 2))
    for head in range(3):
        other = KMeans(8, n_init=1, random_state=0).fit(y[head].numpy())
        assert own[head].item() < 1.15 * other.inertia_
    torch.testing.assert_close(near, torch.cdist(y, centres).argmin(-1))
    assert torch.equal(kmeans(y, 500), y)
    with pytest.raises(OptionError, match="at least 1 code"):
        kmeans(y, 0)


def test_product_codes_and_compact_numbers():
    torch.manual_seed(0)
    y = torch.randn(2, 40, 8)
    codes = coder(y, 3, "product", parts=2)(y)
    assert codes.max() < 9
    small = compact(codes)
    for head in range(2):
        _, expected = np.unique(codes[head].numpy(), return_inverse=True)
        assert small[head].tolist() == expected.tolist()


def test_mutual_information_is_scikit_learns_minus_chance():
    evidence = induction_evidence()
    score = mutual_information(evidence, codes=3)
    codes, labels = score.facts["codes"], evidence.labels
    plain = [mutual_info_score(codes[h].numpy(), labels.numpy()) for h in range(8)]
    level = torch.tensor(plain) - score.values.double()
    assert (level > 0).all()  # chance information of a few codes on few examples
    torch.testing.assert_close(score.null.mean(0), torch.zeros(8), rtol=0, atol=1e-6)


def test_the_linear_probe_is_a_ridge_regression_on_pairs_left_out():
    evidence = induction_evidence()
    score = linear_probe(evidence, folds=3, ridge=0.5)
    x = (
        evidence.examples()[:, 2].double()
        @ residual_coordinates(evidence.outputs.weight)[2].double()
    )
    y = evidence.labels.double().numpy() * 2 - 1
    generator = torch.Generator().manual_seed(0)
    fold = (torch.randperm(12, generator=generator) % 3).repeat(2).numpy()
    wrong = 0.0
    for one in range(3):
        fit = fold != one
        centred = x[fit] - x[fit].mean(0)
        alpha = 0.5 * (centred.T @ centred).diagonal().mean().item()
        model = Ridge(alpha=alpha).fit(x[fit].numpy(), y[fit])
        wrong += ((model.predict(x[~fit].numpy()) - y[~fit]) ** 2).sum()
    assert score.values[2].item() == pytest.approx(1 - wrong / len(y), abs=1e-3)


def test_norm_and_mean_difference_are_those_of_what_heads_write():
    evidence = llama_evidence()
    written = torch.einsum("ehd,hdm->ehm", evidence.examples(), evidence.outputs.weight)
    torch.testing.assert_close(norm(evidence), written.norm(dim=-1).mean(0))
    clean, corrupt = written.chunk(2)
    expected = (clean - corrupt).mean(0).norm(dim=-1)
    torch.testing.assert_close(mean_difference(evidence).values, expected, rtol=1e-4, atol=1e-5)


def test_p_values_and_false_discovery():
    null = torch.tensor([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    score = Score(torch.tensor([2.0, 9.0]), null)
    assert score.p.tolist() == [0.75, 0.25]
    assert score.q.tolist() == [0.75, 0.5]
    assert score.excess.tolist() == [0.0, 4.0]


def test_a_method_must_give_one_number_a_head():
    with pytest.raises(MethodError, match="one number for each of 8 heads"):
        as_score(torch.zeros(3), ll.use("norm"), 8)
    with pytest.raises(MethodError, match=r"call limelight\.circuit"):
        ll.maps(small_llama(), ragged_pairs()[0].clean[None], "code_attr")

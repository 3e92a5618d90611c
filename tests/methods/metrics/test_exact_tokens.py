"""What each token adds to a logit: closed forms, and explainers scored against them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import limelight as ll
from limelight.methods.metrics import Scorer, exact_shares, exact_tokens, use_metric
from limelight.probe.errors import OptionError

SMALL = {"d_model": 16, "d_ffn": 24, "num_layers": 2, "patch_size": 4, "num_classes": 5}


def small(**hyper):
    torch.manual_seed(3)
    return ll.load("activator", **{**SMALL, **hyper}), torch.randn(3, 12, 16)


def test_shares_of_a_linear_model_by_hand():
    model, x = small(num_layers=0)
    w = torch.einsum("kd,dcuv->kcuv", model.classifier.weight, model.patcher.weight)
    b = model.classifier.weight @ model.patcher.bias + model.classifier.bias
    found = exact_shares(Scorer(model, x, 2))
    for row in range(3):
        for column in range(4):
            patch = x[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            want = ((w[2] * patch).sum() + b[2]) / 12
            assert float(found[row, column]) == pytest.approx(float(want.detach()), abs=1e-6)


@pytest.mark.parametrize("only_geglu", [False, True])
def test_shares_sum_to_the_logits_and_each_knows_its_patch_alone(only_geglu):
    model, x = small(only_geglu=only_geglu)
    with torch.no_grad():
        shares = model.token_shares(x[None])
        torch.testing.assert_close(shares.sum((2, 3)), model(x[None]))
        y = x.clone()
        y[:, 4:8, 8:12] = 0
        changed = model.token_shares(y[None]) != shares
        lone = model.token_shares(x[None, :, 4:8, 8:12]) / 12
    assert changed[0].any(0).nonzero().tolist() == [[1, 2]]
    torch.testing.assert_close(lone[..., 0, 0], shares[..., 1, 2])


def test_scores_are_correlations_with_the_shares():
    model, x = small()
    scorer = Scorer.of(model, x[None], 1)
    exact = exact_shares(scorer)
    assert exact_tokens(exact, scorer) == pytest.approx(1)
    assert exact_tokens(3 - 2 * exact, scorer) == pytest.approx(-1)
    assert exact_tokens(exact.repeat_interleave(4, 0).repeat_interleave(4, 1), scorer) == (
        pytest.approx(1)
    )
    ranks = exact**3  # keeps the order, not the proportions
    assert use_metric("exact_tokens:spearman")(ranks, scorer) == pytest.approx(1)
    assert exact_tokens(ranks, scorer) < 0.999
    flat, one = torch.zeros(3, 4), torch.zeros(3, 4)
    one[1, 2] = 1
    spread = (exact - exact.mean()).flatten()
    want = spread[6] / spread.norm() / (11 / 12) ** 0.5
    assert exact_tokens(one, scorer) == pytest.approx(float(want))
    assert exact_tokens(flat, scorer) != exact_tokens(flat, scorer)


def test_explainers_that_are_exact_score_one():
    model, x = small()
    scorer = Scorer(model, x, 1)
    of_class = ll.label(1)
    last = ll.maps(model, x[None], "linear_approx", sites="last", target=of_class)[0]
    hidden = ll.maps(model, x[None], "occlusion:4,stride=4", target=of_class)[0]
    assert last.values.shape == (3, 4)
    assert exact_tokens(last.values, scorer) == pytest.approx(1, abs=1e-5)
    assert exact_tokens(hidden.values, scorer) == pytest.approx(1, abs=1e-5)
    rough = ll.maps(model, x[None], "gradient", target=of_class)[0]
    assert abs(exact_tokens(rough.values, scorer)) < 0.9


def test_the_state_and_mode_of_the_model_stay():
    model, x = small()
    model.train()
    exact_shares(Scorer(model, x, 1))
    assert model.training
    assert not any(p.grad is not None for p in model.parameters())


def test_other_models_and_maps_are_refused():
    model, x = small()
    mixing = ll.load("ninformer", img_size=(12, 16), **SMALL)
    with pytest.raises(OptionError, match=r"in NiNformer tokens meet before the logits: take"):
        exact_tokens(torch.rand(3, 4), Scorer(mixing, x, 1))
    with pytest.raises(OptionError, match=r"map of 5 x 4 does not divide into the 3 x 4 tokens"):
        exact_tokens(torch.rand(5, 4), Scorer(model, x, 1))
    smooth = F.interpolate(torch.rand(1, 1, 3, 4), (12, 16), mode="bilinear")[0, 0]
    assert abs(exact_tokens(smooth, Scorer(model, x, 1))) <= 1

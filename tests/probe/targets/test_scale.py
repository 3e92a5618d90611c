"""What an output has been squashed by, read off its graph; and the scale that is asked for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from limelight.probe.errors import TargetError
from limelight.probe.targets.scale import found_scale, scaled

Z = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
SMALL = torch.rand(3, 5, generator=torch.Generator().manual_seed(0)) / 2
FIELD = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
W = torch.eye(5)
SUMS = "rows of the output sum to 1: read as probabilities"
UNSEEN = "all outputs lie in 0..1, but no sigmoid was seen to make them: read as logits"
OTHER = "the model ends in a softmax that is not over its classes: read as logits"


@pytest.mark.parametrize(
    ("make", "made", "notes"),
    [
        (lambda z: z @ W, "logits", ()),
        (lambda z: z.softmax(1), "softmax", ()),
        (lambda z: z.sigmoid(), "sigmoid", ()),
        (lambda z: F.hardsigmoid(z), "sigmoid", ()),
        (lambda z: z.log_softmax(1), "log_softmax", ()),
        (lambda z: F.logsigmoid(z), "log_sigmoid", ()),
        (lambda z: z.log_softmax(1).exp(), "softmax", ()),
        (lambda z: z.softmax(1).log(), "log_softmax", ()),
        (lambda z: z.sigmoid().log(), "log_sigmoid", ()),
        (lambda z: z.softmax(1)[:, 1:3], "softmax", ()),
        (lambda z: z.softmax(1)[:, 1, None], "softmax", ()),
        (lambda z: z.softmax(1)[:, [4, 1]], "softmax", ()),
        (lambda z: z.view(3, 5, 1).softmax(1).squeeze(2).clone(), "softmax", ()),
        (lambda z: z.T.softmax(0).T.contiguous(), "softmax", ()),
        (lambda z: z.softmax(1).double(), "softmax", ()),
        (lambda z: z.sigmoid().clamp(1e-6, 1 - 1e-6), "sigmoid", ()),
        (lambda z: torch.cat([z.sigmoid(), z.sigmoid()], 1), "sigmoid", ()),
        (lambda z: torch.cat([z.softmax(1), z.sigmoid()], 1), "logits", (UNSEEN,)),
        (lambda z: torch.cat([z.sigmoid(), z], 1), "logits", ()),
        (lambda z: torch.stack([z.softmax(1), z.flip(1).softmax(1)]).mean(0), "softmax", ()),
        (lambda z: (z.softmax(1) + z.flip(1).softmax(1)) / 2, "softmax", (SUMS,)),
        (lambda z: z.sigmoid() * 0.5, "logits", (UNSEEN,)),
        (lambda z: z.softmax(0), "logits", (OTHER,)),
        (lambda z: z.exp() / z.exp().sum(1, keepdim=True), "softmax", (SUMS,)),
        (lambda z: z.softmax(1) @ W - 1, "logits", ()),
    ],
)
def test_what_a_graph_tells(make, made, notes):
    values = make(Z.clone().requires_grad_())
    assert found_scale(values, values) == (made, notes)


@pytest.mark.parametrize(
    ("values", "made", "notes"),
    [
        (Z, "logits", ()),
        (Z.softmax(1), "softmax", (SUMS,)),
        (Z.softmax(1).bfloat16(), "softmax", (SUMS,)),
        (SMALL, "logits", (UNSEEN,)),
        (SMALL[:, :1], "logits", (UNSEEN,)),
        (FIELD.softmax(1), "softmax", (SUMS,)),
        (FIELD, "logits", ()),
    ],
)
def test_what_values_tell_without_a_graph(values, made, notes):
    assert found_scale(values, values) == (made, notes)


def test_small_logits_of_a_linear_layer_are_known():
    values = F.linear(SMALL.requires_grad_(), W)
    assert found_scale(values, values) == ("logits", ())


LOG_P, P, S = Z.log_softmax(1), Z.softmax(1), Z.sigmoid()


@pytest.mark.parametrize(
    ("values", "made", "logit", "probability", "log_probability", "sigmoid"),
    [
        (Z, "logits", Z, P, LOG_P, S),
        (Z[:, :1], "logits", Z[:, :1], S[:, :1], S[:, :1].log(), S[:, :1]),
        (P, "softmax", P, P, LOG_P, None),
        (LOG_P, "log_softmax", LOG_P, P, LOG_P, None),
        (S, "sigmoid", S, S, S.log(), S),
        (S.log(), "log_sigmoid", S.log(), S, S.log(), S),
    ],
)
def test_nothing_is_squashed_twice(values, made, logit, probability, log_probability, sigmoid):
    torch.testing.assert_close(scaled(values, "logit", made), logit)
    torch.testing.assert_close(scaled(values, "probability", made), probability)
    torch.testing.assert_close(scaled(values, "log_probability", made), log_probability)
    if sigmoid is not None:
        torch.testing.assert_close(scaled(values, "sigmoid", made), sigmoid)
        return
    with pytest.raises(TargetError, match="one softmax over its classes: write of='probability'"):
        scaled(values, "sigmoid", made)


def test_places_are_squashed_one_by_one():
    torch.testing.assert_close(scaled(FIELD, "probability", "logits").sum(1), torch.ones(2, 4, 6))
    torch.testing.assert_close(
        scaled(FIELD[:, :1], "probability", "logits"), FIELD[:, :1].sigmoid()
    )


def test_the_logarithm_of_nothing_is_a_number():
    zero = torch.tensor([[0.0, 1.0]])
    assert scaled(zero, "log_probability", "softmax").isfinite().all()

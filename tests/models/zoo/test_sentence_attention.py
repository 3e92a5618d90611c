"""Sentence attention: its golden case, what a sentence does, relevance of both inputs, errors."""

from __future__ import annotations

import pytest
import torch
from fill import fill, image
from shared import golden
from torch import Tensor, nn

import limelight as ll
from limelight.models import load
from limelight.models.zoo.sentence_attention import HashedSentences, SentenceGrounding
from limelight.probe.errors import ModelError, OptionError

NAMED = {
    "init_norm": "init_norm",
    "stem_bn": "backbone._bn0",
    "merged0": "merge_blocks.0",
    "classifier_low": "classifier",
    "scaled4": "sentence_attentions.4",
    **{f"attn{n}": f"sentence_attentions.{n}.attention" for n in range(5)},
}
CHANNELS = {
    "b0": (16, 24, 40, 112, 320),
    "b2": (16, 24, 48, 120, 352),
    "b3": (24, 32, 48, 136, 384),
    "b4": (24, 32, 56, 160, 448),
    "b5": (24, 40, 64, 176, 512),
    "b6": (32, 40, 72, 200, 576),
    "b7": (32, 48, 80, 224, 640),
}


class Pyramid(nn.Module):
    """Two maps."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, 4, 3, 2, 1, bias=False)
        self.coarse = nn.Conv2d(4, 6, 3, 2, 1, bias=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.fine(x).relu()
        return [fine, self.coarse(fine).relu()]


def small() -> SentenceGrounding:
    torch.manual_seed(0)
    return SentenceGrounding(Pyramid(), (4, 6), n_classes=2, encode_dim=8, mid_dim=16).eval()


@pytest.mark.golden
def test_the_golden_case_is_the_same():
    case = golden("sentence_attention.b3")
    model = load("sentence_attention_b3", weights=None, **case.case["config"])
    listed = {name: shape for name, shape, *_ in case.case["parameters"]}
    assert {n: list(p.shape) for n, p in model.named_parameters()} == listed
    assert sum(p.numel() for p in model.parameters()) == case.case["n_params"]
    fill(model, case.case["salt"])
    found: dict[str, Tensor] = {}
    for key, path in NAMED.items():
        model.get_submodule(path).register_forward_hook(
            lambda _m, _x, y, key=key: found.update({key: y})
        )
    model.backbone.register_forward_hook(
        lambda _m, _x, maps: found.update({f"feat{n}": one for n, one in enumerate(maps)})
    )
    picture, sentence = image((2, 3, 96, 96), 0), image((2, 384), 1)
    with torch.no_grad():
        found["logits"] = model(torch.from_numpy(picture), torch.from_numpy(sentence))
    keys = {entry["key"] for entry in case.case["outputs"]}
    assert keys == found.keys()
    for key, value in found.items():
        assert case.worst(key, value) <= 1e-4, key


@pytest.mark.parametrize("name", CHANNELS)
def test_the_maps_of_every_size_have_their_channels(name):
    with torch.device("meta"):
        model = load(f"sentence_attention_{name}", weights=None)
    assert model.backbone.channels == CHANNELS[name]


def test_weights_follow_from_the_sentence_alone_and_add_up_to_one():
    model = small()
    x, t = torch.rand(2, 3, 16, 16), torch.randn(2, 8)
    with ll.Probe(model, grad=False) as p:
        p.watch("sentence_attentions.*:weights")
        p(x, t)
        first = {str(s): v.act.clone() for s, v in p.trace.items()}
        p(torch.rand(2, 3, 16, 16), t)
        again = {str(s): v.act for s, v in p.trace.items()}
    assert len(first) == 2
    for site, weights in first.items():
        torch.testing.assert_close(weights.sum(1).flatten(), torch.ones(2))
        torch.testing.assert_close(again[site], weights)


def test_both_inputs_have_gradients_and_a_held_softmax_leaves_the_sentence_none():
    torch.manual_seed(1)
    model, x, t = small().double(), torch.rand(1, 3, 16, 16).double(), torch.randn(1, 8).double()
    target = ll.region(torch.ones(16, 16), 1)
    found = ll.maps(model, (x, t), "gradient", sites=["input", "input.1"], target=target)
    assert all(float(m.values.abs().sum()) > 0 for m in found)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.zero_()
    rule = "lrp:epsilon,epsilon=1e-9"
    books = ll.ledger(model, (x, t), rule, target=target)
    assert abs(books.arrived - books.start) <= 1e-4 * abs(books.start)
    picture, sentence = ll.maps(model, (x, t), rule, sites=["input", "input.1"], target=target)
    whole = float(picture.values.sum() + sentence.values.sum())
    assert whole == pytest.approx(float(books.start), rel=1e-4)


def test_sentences_are_hashed():
    encode = HashedSentences(64)
    one, two, other = encode(["Where is the red disc?", "where is the red disc", "the blue disc"])
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(one.norm(), torch.tensor(1.0))
    assert float(one @ other) < 0.9
    assert not torch.equal(HashedSentences(64, seed=1)(["the disc"]), encode(["the disc"]))
    with pytest.raises(OptionError, match="holds no word"):
        encode(["?"])
    with pytest.raises(OptionError, match="sentences are a list"):
        encode("where")


def test_words_become_what_the_model_takes():
    model = small()
    assert model.encode(["where is it", "what is it"]).shape == (2, 8)
    model.encoder = HashedSentences(9)
    with pytest.raises(ModelError, match="takes sentences of 8 numbers"):
        model.encode(["where"])


@pytest.mark.parametrize(
    ("x", "t", "words"),
    [
        (torch.rand(1, 3, 16, 16), None, "was given no sentence"),
        (torch.rand(2, 3, 16, 16), torch.rand(1, 8), r"one of shape \(1, 8\)"),
        (torch.rand(1, 3, 16, 16), torch.rand(1, 9), r"one of shape \(1, 9\)"),
        (torch.rand(1, 1, 16, 16), torch.rand(1, 8), "takes pictures b 3 y x"),
    ],
)
def test_what_does_not_fit_is_one_sentence(x, t, words):
    with pytest.raises(ModelError, match=words):
        small()(x, t)


def test_options_that_do_not_fit():
    with pytest.raises(OptionError, match="is no EfficientNet"):
        load("sentence_attention", weights=None, backbone="efficientnet-b9")
    with pytest.raises(OptionError, match="leave them out"):
        load("sentence_attention_b0", weights=None, channels=(24, 24, 40, 112, 320))
    with pytest.raises(OptionError, match="two maps or more"):
        SentenceGrounding(Pyramid(), (4,), n_classes=2)

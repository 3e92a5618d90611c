"""Outputs of every kind mean the same to site, path and pass methods, to metrics and the page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.methods.metrics.perturbed_scores import Scorer
from limelight.probe.engine import Batch, settled
from limelight.probe.errors import TargetError
from limelight.probe.targets.target import label

X = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A small convolutional net whose logits `b k` become any output."""

    def __init__(self, outputs: int, end) -> None:
        super().__init__()
        self.conv, self.head, self.end = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, outputs), end

    def logits(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().mean((2, 3)))

    def forward(self, x: Tensor):
        return self.end(self.logits(x))


def net(outputs: int, end=lambda z: z) -> Net:
    torch.manual_seed(0)
    return Net(outputs, end).eval()


@dataclass
class Heads:
    age: Tensor
    kind: Tensor


def probability(z: Tensor) -> Tensor:
    return z.softmax(1) if z.shape[1] > 1 else z.sigmoid()


ENDS = {
    "logits": (4, lambda z: z, {}, probability),
    "one logit": (1, lambda z: z, {}, probability),
    "one logit, squeezed": (1, lambda z: z.squeeze(), {}, probability),
    "softmax": (4, lambda z: z.softmax(1), {}, probability),
    "softmax of two, one kept": (2, lambda z: z.softmax(1)[:, :1], {}, probability),
    "log-softmax": (4, lambda z: z.log_softmax(-1), {}, probability),
    "one sigmoid unit": (1, lambda z: z.sigmoid(), {}, torch.sigmoid),
    "one sigmoid unit, squeezed": (1, lambda z: z.sigmoid().squeeze(1), {}, torch.sigmoid),
    "many sigmoids": (4, lambda z: z.sigmoid(), {}, torch.sigmoid),
    "two heads": (
        5,
        lambda z: (z[:, :2], z[:, 2:].softmax(1)),
        {"at": "1"},
        lambda z: z[:, 2:].softmax(1),
    ),
    "named heads": (
        5,
        lambda z: Heads(z[:, 0], z[:, 1:].sigmoid()),
        {"at": "kind"},
        lambda z: z[:, 1:].sigmoid(),
    ),
}


@pytest.mark.parametrize("kind", ENDS)
@pytest.mark.parametrize("of", ["probability", "log_probability"])
def test_every_method_reads_the_same_number(kind, of):
    count, end, where, want = ENDS[kind]
    model = net(count, end)
    target = ll.label(0, of=of, **where)
    with torch.no_grad():
        expected = want(model.logits(X))[:, 0]
        expected = expected.log() if of == "log_probability" else expected
    for methods in (
        ["gradient_sum"],
        ["integrated_gradients,n=2"],
        ["occlusion,window=8,stride=8"],
        ["rise,n=2"],
        ["meta,base=gradient"],
    ):
        found = ll.maps(model, X, methods, target=target, sites="input")
        torch.testing.assert_close(torch.tensor([m.about.score for m in found]), expected)
        assert all(m.about.notes == found[0].about.notes for m in found)


@pytest.mark.parametrize("kind", ENDS)
def test_gradients_and_occlusion_by_hand(kind):
    count, end, where, want = ENDS[kind]
    model, leaf = net(count, end), X.clone().requires_grad_()
    target = ll.label(0, of="probability", **where)
    grad = torch.autograd.grad(want(model.logits(leaf))[:, 0].sum(), leaf)[0].sum(1)
    found = ll.maps(model, X, "gradient_sum", target=target, sites="input", batch=2)
    torch.testing.assert_close(torch.stack([m.values for m in found]), grad)
    with torch.no_grad():
        fall = (want(model.logits(X)) - want(model.logits(torch.zeros_like(X))))[:, 0]
    found = ll.maps(model, X, "occlusion,window=8,stride=8", target=target, batch=2)
    covered = torch.stack([m.values for m in found])
    torch.testing.assert_close(covered, fall[:, None, None].expand(3, 8, 8))
    patched = ll.patch(model, X, {"conv": ll.scale(1.0)}, target=target)
    torch.testing.assert_close(patched, want(model.logits(X))[:, 0].detach())


@pytest.mark.parametrize("kind", [k for k, (_, _, where, _) in ENDS.items() if not where])
def test_metrics_read_it_too(kind):
    count, end, _, want = ENDS[kind]
    model = net(count, end)
    expected = want(model.logits(X))[:, 0].detach().double()
    torch.testing.assert_close(Scorer(model, X[0], 0, batch=2)(X), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [k for k, (count, _, _, _) in ENDS.items() if count > 2])
def test_the_page_shows_the_probabilities_of_the_part_that_is_explained(kind):
    count, end, where, want = ENDS[kind]
    model = net(count, end)
    photo = (np.random.default_rng(0).random((224, 224, 3)) * 255).astype(np.uint8)
    x = ll.preprocess(model, photo)
    expected = want(model.logits(x))[0].detach()
    for methods in ("gradient", "occlusion,window=224,stride=224"):
        guesses = ll.explain(model, photo, methods, target=ll.top(**where)).top["picture 1"]
        found = {g.index: g.probability for g in guesses}
        assert found == pytest.approx(dict(enumerate(expected.tolist())), rel=1e-4)


def test_the_page_shows_no_guesses_where_outputs_are_no_classes():
    photo = np.zeros((224, 224, 3), dtype=np.uint8)
    dense = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1)).eval()
    assert ll.explain(dense, photo, "gradient", target=1).top == {"picture 1": []}
    two = net(5, lambda z: (z[:, :2], z[:, 2:]))
    page = ll.explain(two, photo, "gradient", target=lambda out: out[0][:, 0])
    assert page.top == {"picture 1": []}


def test_several_parts_are_refused_by_name():
    model = net(5, lambda z: {"kind": z[:, :2], "boxes": z[:, 2:]})
    for methods in ("gradient", "occlusion,window=8,stride=8"):
        with pytest.raises(TargetError, match=r"several parts, kind \(3, 2\), boxes \(3, 3\)"):
            ll.maps(model, X, methods)
        with pytest.raises(TargetError, match=r"at='kin' names no part .* did you mean 'kind'"):
            ll.maps(model, X, methods, target=ll.label(0, at="kin"))


class Detects(Net):
    """A list of a dict a picture; fewer boxes than pictures, or none of a kind."""

    def forward(self, x: Tensor):
        z = self.logits(x)
        return [{"boxes": row[:4].view(1, 4), "scores": row[4:], "labels": None} for row in z]


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("method", ["gradient_sum", "occlusion,window=8,stride=8", "rise,n=4"])
def test_a_function_reads_any_output_however_the_batch_is_split(batch, method):
    torch.manual_seed(0)
    detector = Detects(5, None).eval()
    plain = net(5)
    plain.load_state_dict(detector.state_dict())

    def score(output):
        return torch.stack([found["scores"][0] for found in output])

    got = ll.maps(detector, X, method, target=score, sites="input", batch=batch)
    want = ll.maps(plain, X, method, target=4, sites="input", batch=batch)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one.values, other.values)
        assert one.about.score == pytest.approx(other.about.score)


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize(
    "method",
    ["gradcam", "integrated_gradients,n=2", "occlusion,window=8,stride=8", "lrp:epsilon"],
)
def test_a_number_alone_is_the_score_of_a_single_sample(batch, method):
    squeezed, plain = net(1, torch.squeeze), net(1)
    site = "input" if method.startswith("occlusion") else "conv"
    got = ll.maps(squeezed, X, method, target=lambda out: out, sites=site, batch=batch)
    want = ll.maps(plain, X, method, target=0, sites=site, batch=batch)
    as_class = ll.maps(squeezed, X, method, target=0, sites=site, batch=batch)
    for one, other, third in zip(got, want, as_class, strict=True):
        torch.testing.assert_close(one.values, other.values)
        torch.testing.assert_close(third.values, other.values)


def test_classes_of_numpy_and_torch():
    model = net(4)
    names = {
        "class 2": [np.int64(2), torch.tensor(2), np.array(2), ll.label(np.int64(2))],
        "class 1": [1, np.uint8(1)],
    }
    for name, ways in names.items():
        for way in ways:
            assert [m.target for m in ll.maps(model, X, "gradcam", target=way)] == [name] * 3
    for classes in (torch.tensor([1, 2, 3]), np.array([1, 2, 3])):
        found = ll.maps(model, X, "gradcam", target=classes, batch=2)
        assert [m.target for m in found] == ["class 1", "class 2", "class 3"]
    assert [m.target for m in ll.maps(model, X[:1], "gradcam", target=[np.int64(1), 3])] == [
        "class 1",
        "class 3",
    ]


def test_what_had_to_be_assumed_stands_in_every_result():
    mixed = net(3, lambda z: (z.softmax(1) + z.flip(1).softmax(1)) / 2)
    target = ll.label(0, of="probability")
    for methods in ("gradient", "smoothgrad,n=2", "occlusion,window=8,stride=8"):
        for m in ll.maps(mixed, X, methods, target=target, sites="input"):
            assert "rows of the output sum to 1: read as probabilities" in m.about.notes
    words = ll.load("attention_only", vocab_size=11, d_model=12, n_heads=3, n_ctx=9).eval()
    (m,) = ll.maps(words, torch.tensor([[1, 2, 3]]), "input_x_gradient", target=7)
    assert "output (1, 3, 11) read as b n v, at its last position" in m.about.notes
    (m,) = ll.maps(words, torch.tensor([[1, 2, 3]]), "input_x_gradient", target=ll.token(7, 1))
    assert not any("read as" in note for note in m.about.notes)


def test_one_pass_with_a_graph_is_made_where_it_is_needed_alone():
    model, passes = net(4, lambda z: z.softmax(1)), []
    model.conv.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    batch = Batch.of(X)
    assert settled(model, batch, [label(1)])[0].reading.made is None
    assert passes == []
    (target,) = settled(model, batch, [label([0, 1, 2], of="probability")])
    assert (target.reading.made, passes, len(target.rows)) == ("softmax", [True], 3)
    settled(model, batch, [target])
    assert passes == [True]


class Dense(nn.Module):
    """A score of three classes at every place, in an order of dimensions of its own."""

    def __init__(self, conv: nn.Module, order: tuple[int, ...]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.order = conv, order

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).permute(self.order)


DENSE = [
    (Dense(nn.Conv1d(2, 3, 3), (0, 1, 2)), torch.randn(2, 2, 7), (0, 1, 2)),
    (Dense(nn.Conv1d(2, 3, 3), (2, 0, 1)), torch.randn(2, 2, 7), (1, 2, 0)),
    (Dense(nn.Conv2d(2, 3, 3), (0, 2, 3, 1)), torch.randn(2, 2, 6, 5), (0, 3, 1, 2)),
    (Dense(nn.Conv2d(2, 3, 1), (0, 3, 1, 2)), torch.randn(2, 2, 3, 3), (0, 2, 3, 1)),
    (Dense(nn.Conv3d(2, 3, 2), (0, 4, 3, 2, 1)), torch.randn(1, 2, 3, 4, 5), (0, 4, 3, 2, 1)),
]


@pytest.mark.parametrize(("model", "x", "back"), DENSE)
def test_ops_say_which_dimension_of_an_output_holds_the_classes(model, x, back):
    model, of_class = model.eval(), 2
    usual = [] if model.order == (2, 0, 1) else [of_class]  # `t b c`: positions or a sum
    for target in (*usual, ll.label(of_class, dense=True)):
        maps = ll.maps(model, x, ["input_x_gradient", "occlusion,window=2,stride=2"], target=target)
        scores = model(x).detach().permute(back)[:, of_class].flatten(1).sum(1)
        for m in maps:
            assert m.about.score == pytest.approx(float(scores[int(m.sample)]), rel=1e-4)
            assert not any("read as" in note for note in m.about.notes)


def test_classes_behind_positions_are_asked_for_by_name():
    model = Dense(nn.Conv1d(2, 3, 3), (0, 2, 1)).eval()
    x = torch.randn(2, 2, 7)
    with pytest.raises(
        ll.LimelightError, match=r"an output \(2, 5, 3\) is b t c: write position=-1"
    ):
        ll.maps(model, x, "gradient", target=1)
    (m, _) = ll.maps(model, x, "gradient", target=ll.label(1, position=-2))
    assert m.about.score == pytest.approx(float(model(x).detach()[0, -2, 1]), rel=1e-5)


def test_a_position_of_channels_first_is_one_of_the_places():
    model = Dense(nn.Conv1d(2, 3, 3), (0, 1, 2)).eval()
    x = torch.randn(2, 2, 7)
    for target in (ll.label(1, position=-1), ll.token(1, -1)):
        (m, _) = ll.maps(model, x, "gradient", target=target)
        assert m.about.score == pytest.approx(float(model(x).detach()[0, 1, -1]), rel=1e-5)
    scores = [m.about.score for m in ll.maps(model, x, "gradient", target=ll.token(1, [-1, 0]))]
    out = model(x).detach()
    assert scores == pytest.approx([float(out[0, 1, -1]), float(out[1, 1, 0])], rel=1e-5)


def test_dense_outputs_that_no_op_names_carry_a_note():
    class Mixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("bcyx,cd->bdyx", x, torch.ones(2, 3))

    (m,) = ll.maps(
        Mixed(), torch.randn(1, 2, 4, 4), "gradient", target=1, axes={"input": "b c y x"}
    )
    known = "read as b c y x" in " ".join(m.about.notes)
    assert known == ("?" in axes_of(Mixed(), torch.randn(1, 2, 4, 4)))
    said = {"input": "b c y x", "output": "b c y x"}
    (m,) = ll.maps(Mixed(), torch.randn(1, 2, 4, 4), "gradient", target=1, axes=said)
    assert not any("read as" in note for note in m.about.notes)


def axes_of(model: nn.Module, x: Tensor) -> str:
    with ll.Probe(model, axes={"input": "b c y x"}) as probe:
        output = probe(x)
        return probe.given.axes(output, "")

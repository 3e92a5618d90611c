"""The published route: autoencoder, codes, node and edge scores, permutation facts."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from limelight.methods.circuits.codes import sae_active_codes as sae_screen
from limelight.methods.circuits.codes import sae_gradients
from limelight.methods.circuits.codes.sae import SharedSae, dead_share, fit
from limelight.methods.circuits.codes.sae_options import Options
from limelight.methods.circuits.codes.set_scores import (
    diversity,
    edge_score,
    node_score,
    unique_to_negative,
    upstream_edge_nodes,
)
from limelight.methods.circuits.significance import benjamini_hochberg, label_permutations, p_values
from limelight.probe.errors import OptionError

SMALL = Options(codes=24, steps=40, examples=6, lr=1e-2)


def drawn(e: int = 16, h: int = 5, m: int = 12, seed: int = 0) -> Tensor:
    """Outputs of heads that differ in size and direction."""
    g = torch.Generator().manual_seed(seed)
    size = torch.linspace(0.2, 6, h)[:, None]
    return size * (torch.randn(h, m, generator=g) + 0.5 * torch.randn(e, h, m, generator=g))


def some_codes(*shape: int, seed: int = 0, most: int = 6) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(-1, most, shape, generator=g)


LABELS = torch.tensor([True] * 7 + [False] * 5)


def sets(codes: Tensor, labels: Tensor, head: int) -> tuple[set, set]:
    one = codes[:, head].tolist()
    good = {c for c, on in zip(one, labels.tolist(), strict=True) if on}
    return good, {c for c, on in zip(one, labels.tolist(), strict=True) if not on}


def pair_sets(codes: Tensor, labels: Tensor, a: int, b: int) -> tuple[set, set]:
    both = list(zip(codes[:, a].tolist(), codes[:, b].tolist(), strict=True))
    good = {c for c, on in zip(both, labels.tolist(), strict=True) if on}
    return good, {c for c, on in zip(both, labels.tolist(), strict=True) if not on}


def test_node_scores_equal_hand_counted_sets():
    codes = some_codes(3, 12, 9)
    for s in range(3):
        for h in range(9):
            good, bad = sets(codes[s], LABELS, h)
            assert node_score(codes, LABELS)[s, h] == len(good - bad)
            assert unique_to_negative(codes, LABELS)[s, h] == len(bad - good)
            assert diversity(codes)[s, h] == len(good | bad)
            share = node_score(codes, LABELS, normalise=True)[s, h]
            assert share == pytest.approx(len(good - bad) / len(good | bad))


def test_a_written_out_case():
    codes = torch.tensor([[0, 3], [1, 3], [1, -1], [2, 3], [0, 4], [2, 4]])
    labels = torch.tensor([True, True, True, False, False, False])
    assert node_score(codes, labels).tolist() == [1, 1]  # {0 1} - {2 0}, {3 -1} - {3 4}
    edges = edge_score(codes, labels, torch.tensor([0, 1]))
    assert edges.tolist() == [[0, 3], [0, 0]]  # (0 3) (1 3) (1 -1), none of them in a negative
    assert diversity(codes).tolist() == [3, 3]


@pytest.mark.parametrize("lead", [(), (2, 3)])
@pytest.mark.parametrize("normalise", [True, False])
def test_many_labellings_at_once_equal_one_after_another(lead, normalise, monkeypatch):
    codes = some_codes(*lead, 12, 9, seed=1)
    drawn_labels = label_permutations(LABELS, 11, torch.Generator().manual_seed(0))
    one = torch.stack([node_score(codes, row, normalise=normalise) for row in drawn_labels])
    assert one.shape == (11, *lead, 9)
    assert torch.equal(node_score(codes, drawn_labels, normalise=normalise), one)
    monkeypatch.setattr("limelight.methods.circuits.codes.set_scores._AT_ONCE", 300)
    assert torch.equal(node_score(codes, drawn_labels, normalise=normalise), one)


@pytest.mark.parametrize("at_once", [1, 1 << 24])
def test_edge_scores_equal_hand_counted_pairs(at_once, monkeypatch):
    monkeypatch.setattr("limelight.methods.circuits.codes.set_scores._AT_ONCE", at_once)
    codes, layers = some_codes(2, 12, 6, most=3, seed=2), torch.tensor([0, 0, 1, 1, 2, 2])
    forward = edge_score(codes, LABELS, layers)
    every = edge_score(codes, LABELS, layers, both=True)
    share = edge_score(codes, LABELS, layers, both=True, normalise=True)
    for s in range(2):
        for a in range(6):
            for b in range(6):
                good, bad = pair_sets(codes[s], LABELS, a, b)
                count = len(good - bad)
                assert every[s, a, b] == count
                assert forward[s, a, b] == (count if layers[a] < layers[b] else 0)
                assert share[s, a, b] == pytest.approx(count / (len(good) + len(bad)))
    assert torch.equal(every.diagonal(dim1=1, dim2=2), node_score(codes, LABELS))


def test_codes_may_be_large_numbers():
    codes = some_codes(12, 4) * 10_000_000
    assert torch.equal(node_score(codes, LABELS), node_score(some_codes(12, 4), LABELS))


def test_upstream_edge_nodes_counts_the_first_half_of_a_sequence_of_heads():
    edge = torch.tensor([[0, 9, 1], [8, 0, 7], [2, 3, 0]])
    # pairs 01 10 12 ...: heads 0 1 1 0 1 2 ..., of which the first 3 * 3 // 2 = 4
    assert upstream_edge_nodes(edge).tolist() == [2, 2, 0]
    assert upstream_edge_nodes(torch.stack([edge, edge.T])).shape == (2, 3)


def test_permutations_keep_the_number_of_positives_and_follow_the_generator():
    found = label_permutations(LABELS, 30, torch.Generator().manual_seed(3))
    assert found.shape == (30, 12)
    assert found.sum(1).eq(7).all()
    assert len(found.unique(dim=0)) > 20
    again = label_permutations(LABELS, 30, torch.Generator().manual_seed(3))
    assert torch.equal(found, again)


def test_p_values_count_the_null_and_q_values_the_heads():
    null = torch.tensor([[1, 5], [2, 5], [3, 5]])
    assert p_values(torch.tensor([2, 6]), null).tolist() == [3 / 4, 1 / 4]
    p = torch.tensor([0.01, 0.04, 0.03, 0.5], dtype=torch.float64)
    # .01*4/1, .03*4/2, .04*4/3, .5*4/4; the smallest from there upwards
    expected = torch.tensor([0.04, 0.16 / 3, 0.16 / 3, 0.5], dtype=torch.float64)
    assert torch.allclose(benjamini_hochberg(p), expected)
    assert torch.equal(benjamini_hochberg(torch.stack([p, p])), benjamini_hochberg(p).expand(2, 4))


def naive_loss(rows: sae_gradients.Rows, parts: list[Tensor], options: Options) -> Tensor:
    """The formula as published."""
    encoder, decoder, code_bias, bias = parts
    centred = rows.x - bias if options.tied else rows.x
    z = F.relu(centred @ encoder.T + code_bias)
    loss = (z @ decoder + bias - rows.x).square().mean() + options.l1 * z.sum() / len(z)
    if options.alpha:
        unit = F.normalize(z.view(*rows.shape[:2], -1), dim=-1)
        cosine = torch.einsum("ehk,fhk->efh", unit, unit)
        on = rows.labels
        pos = cosine[on][:, on]
        p = len(pos)
        within = (pos.sum((0, 1)) - pos.diagonal().sum(-1)) / (p * (p - 1))
        loss = loss + options.alpha * (cosine[on][:, ~on].mean() + (1 - within).mean())
    return loss


def state_and_rows(x: Tensor, k: int) -> tuple[sae_gradients.SaeState, sae_gradients.Rows]:
    labels = torch.arange(len(x)) % 2 == 0
    draw = torch.Generator().manual_seed(4)
    rows = sae_gradients.Rows.of(x, labels)
    state = sae_gradients.SaeState.drawn(k, x.shape[-1], draw, x)
    with torch.no_grad():
        state.bias.copy_(torch.randn(x.shape[-1], generator=draw))
        state.encoder.div_(state.encoder.norm(dim=1, keepdim=True))
    return state, rows


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("route", "options"),
    [
        ("dense", SMALL),
        ("sparse", SMALL),
        ("dense", replace(SMALL, tied=False)),
        ("sparse", replace(SMALL, tied=False)),
        ("dense", replace(SMALL, alpha=0.7)),
    ],
)
def test_gradients_by_hand_equal_autograd(dtype, route, options):
    state, rows = state_and_rows(drawn().to(dtype), 24)
    with torch.no_grad():
        loss = getattr(sae_gradients, route)(state, rows, options)
    parts = [p.clone() for p in (state.encoder, state.decoder, state.code_bias, state.bias)]
    parts = [p.requires_grad_() for p in parts]
    expected = naive_loss(rows, parts, options)
    slope = state.slope
    found = [slope.encoder, slope.decoder, slope.code_bias, slope.bias]
    close = (
        {"rtol": 1e-9, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 2e-4, "atol": 1e-5}
    )
    assert torch.allclose(loss, expected, **close)
    for ours, theirs in zip(found, torch.autograd.grad(expected, parts), strict=True):
        assert torch.allclose(ours, theirs, **close)


@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("long", [(0.9, 0.5), (0.0, 0.5), (0.9, 0.0)])
@pytest.mark.parametrize("seed", range(2))
def test_the_screen_misses_no_active_code(low, long, seed, monkeypatch):
    """Nor do lists that are kept while weights drift, and now and then jump."""
    monkeypatch.setattr(sae_screen, "_fastest", lambda x: low)
    monkeypatch.setattr(sae_screen, "_LONG", long)
    g = torch.Generator().manual_seed(seed)
    x = drawn(e=40, h=10, m=33).flatten(0, 1) * 10
    screen, encoder = sae_screen.Screen.of(x), F.normalize(torch.randn(50, 33, generator=g), dim=1)
    offset, lists, way = torch.linspace(-9, 1, 50), [], torch.randn(50, 33, generator=g)
    for step in range(80):
        row, code, value = screen.entries(encoder, offset)
        lists.append(screen.inner.age + screen.outer.age)
        exact = x.double() @ encoder.double().T + offset
        found = torch.zeros(len(x), 50, dtype=torch.bool)
        found[row, code] = True
        assert bool(found[exact > 1e-4].all())
        assert not bool(found[exact < -1e-4].any())
        assert torch.allclose(value.double(), exact[row, code], atol=1e-4)
        speed = 0.1 if step % 20 == 19 else 3e-3
        way = way + 0.3 * torch.randn(50, 33, generator=g)
        encoder = F.normalize(encoder + speed * way, dim=1)
        offset = offset + 10 * speed * torch.randn(50, generator=g)
    assert max(lists) > 0 or not long[0]  # some were kept


def test_training_lowers_the_loss_and_keeps_unit_norms():
    found = fit(drawn(), options=SMALL)
    assert found.loss.shape == (5, 40)
    assert bool((found.loss[:, -1] < 0.8 * found.loss[:, 0]).all())
    ones = torch.ones(())
    assert torch.allclose(found.encoder.norm(dim=-1), ones, atol=1e-5)
    assert torch.allclose(found.decoder.norm(dim=-1), ones, atol=1e-5)  # rows over codes
    turned = fit(drawn(), options=replace(SMALL, unit="columns"))
    assert torch.allclose(turned.decoder.norm(dim=-2), ones, atol=1e-5)  # one per code


def stepwise(x: Tensor, start: SharedSae, options: Options) -> Tensor:
    """Losses of a plain autograd training from the same start."""
    rows = sae_gradients.Rows.of(x[start.chosen[0]], None)
    parts = [start.encoder[0], start.decoder[0].T, start.code_bias[0], start.bias[0]]
    parts = [p.clone().requires_grad_() for p in parts]
    adam, losses = torch.optim.Adam(parts, lr=options.lr), []
    for _ in range(options.steps):
        with torch.no_grad():
            for part, side in ((parts[0], 1), (parts[1], 0)):
                part.div_(part.norm(dim=side, keepdim=True))
        losses.append(naive_loss(rows, parts, options))
        adam.zero_grad()
        losses[-1].backward()
        for part, side in ((parts[0], 1), (parts[1], 0)):
            part.grad -= (part.grad * part).sum(side, keepdim=True) * part.detach()
        adam.step()
    return torch.stack(losses).detach()


@pytest.mark.parametrize("share", [0.0, 1.0])  # always dense, sparse from the second step on
def test_training_equals_plain_autograd(share, monkeypatch):
    monkeypatch.setattr(sae_gradients, "_SPARSE", share)
    x, options = drawn().double(), replace(SMALL, steps=25)
    start = fit(x, seeds=[7], options=replace(options, steps=0))
    found = fit(x, seeds=[7], options=options)
    assert torch.allclose(found.loss[0], stepwise(x, start, options), rtol=1e-6)


def test_seeds_repeat_and_do_not_depend_on_their_company():
    alone, together = fit(drawn(), seeds=[2], options=SMALL), fit(drawn(), options=SMALL)
    assert torch.equal(alone.encoder[0], together.encoder[2])
    assert torch.equal(alone.chosen[0], together.chosen[2])
    assert torch.equal(alone.encode(drawn())[0], together.encode(drawn())[2])
    assert not torch.equal(together.encoder[0], together.encoder[1])
    assert together.seeds == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("equalise", [False, True])
def test_factored_outputs_train_and_encode_alike(equalise):
    g = torch.Generator().manual_seed(1)
    z, out = torch.randn(16, 5, 3, generator=g) * 3, torch.randn(5, 3, 12, generator=g)
    whole = torch.einsum("ehd,hdm->ehm", z, out)
    options = replace(SMALL, equalise=equalise)
    one, two = fit(whole, options=options), fit(z, out, options=options)
    assert torch.allclose(one.loss, two.loss, rtol=1e-4)
    assert (one.encode(whole) == two.encode(z, out)).float().mean() > 0.98
    if equalise:
        norms = (whole * one.scale[:, None]).norm(dim=-1).mean(0)
        assert torch.allclose(norms, norms.mean().expand(5), rtol=1e-5)


def test_codes_are_the_strongest_and_dead_ones_show():
    x = drawn()
    found = fit(x, options=SMALL)
    shown, hidden = found.encode(x, dead="own"), found.encode(x)
    for s in range(5):
        z = F.relu((x - found.bias[s]) @ found.encoder[s].T + found.code_bias[s])
        empty = z.amax(-1) == 0
        assert torch.equal(shown[s], z.argmax(-1).masked_fill(empty, -1))
        assert torch.equal(hidden[s], z.argmax(-1).masked_fill(empty, 0))
        assert found.dead_share(x)[s] == pytest.approx(empty.double().mean().item())
    assert dead_share(torch.tensor([[-1, 2], [3, -1]])) == 0.5


def test_every_quirk_changes_something():
    x, labels = drawn(), torch.arange(16) % 2 == 0
    plain = fit(x, seeds=[0], options=SMALL)
    quirks = [
        {"unit": "columns"},
        {"tied": False},
        {"project": False},
        {"renormalise": False},
        {"equalise": True},
        {"alpha": 0.5},
        {"l1": 0.2},
        {"codes": 30},
        {"examples": 8},
    ]
    for quirk in quirks:
        other = fit(x, seeds=[0], labels=labels, options=replace(SMALL, **quirk))
        assert not torch.equal(plain.bias, other.bias), quirk


def test_bfloat16_products_train_nearly_alike():
    plain = fit(drawn(), options=SMALL)
    low = fit(drawn(), options=replace(SMALL, dtype=torch.bfloat16))
    assert low.encoder.dtype == torch.float32
    assert torch.allclose(plain.loss, low.loss, rtol=0.1)


def test_an_untrained_encoder_still_encodes():
    found = fit(drawn(), options=replace(SMALL, steps=0))
    assert found.loss.shape == (5, 0)
    assert found.encode(drawn()).max() > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Options(unit="both"), "unit='both'"),
        (lambda: Options(codes=0), "codes and examples start at 1"),
        (lambda: Options(dtype=torch.int8), "torch.bfloat16"),
        (lambda: fit(drawn(), seeds=[]), "no seeds"),
        (lambda: fit(drawn(e=4), options=SMALL), "there are only 4"),
        (lambda: fit(drawn()[0]), "x `e h m`"),
        (lambda: fit(drawn() / 0), "NaN or infinite"),
        (lambda: fit(drawn(), options=replace(SMALL, alpha=1.0)), "pass labels"),
        (lambda: fit(drawn(), options=SMALL).encode(drawn(), dead="gone"), "dead='gone'"),
        (lambda: fit(drawn(), options=SMALL).encode(drawn(m=5)), "trained on outputs of size 12"),
        (lambda: node_score(some_codes(12, 3).float(), LABELS), "codes must be integers"),
        (lambda: node_score(some_codes(12, 3), LABELS.long()), "labels must be bool"),
        (lambda: node_score(some_codes(11, 3), LABELS), "12 labels were given for 11"),
        (lambda: node_score(some_codes(7, 3), LABELS[:7]), "one class only"),
        (lambda: edge_score(some_codes(12, 3), LABELS, torch.zeros(2)), "one layer per head"),
        (lambda: label_permutations(LABELS.long()), "one bool per example"),
        (lambda: label_permutations(LABELS, 0), "ask for 1 or more"),
        (lambda: p_values(torch.zeros(3), torch.zeros(4)), "do not fit"),
        (lambda: benjamini_hochberg(torch.tensor([1.2])), "between 0 and 1"),
    ],
)
def test_impossible_options_say_what_to_do(call, message):
    with pytest.raises(OptionError, match=message.replace("(", r"\(")):
        call()

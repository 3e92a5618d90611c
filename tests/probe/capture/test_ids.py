"""Which embedding the input is: that of the ids that were given, in whatever order they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.probe.errors import ProbeError

IDS = torch.tensor([[2, 3, 4, 1], [5, 6, 7, 8]])
Forward = Callable[..., Tensor]


class Words(nn.Module):
    """Scores of the mean of what `embed` makes of ids, without biases."""

    def __init__(self, embed: Forward) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.places = nn.Embedding(12, 6), nn.Embedding(12, 6)
        self.inner, self.head = nn.Linear(6, 6, bias=False), nn.Linear(6, 3, bias=False)
        self.embed = embed
        self.eval()

    def forward(self, ids: Tensor, **more: Tensor) -> Tensor:
        return self.head(self.inner(self.embed(self, ids, **more)).relu().mean(1))


def counted(m: Words, ids: Tensor) -> Tensor:
    return m.places(torch.arange(ids.shape[1]).expand_as(ids)) + m.words(ids)


def counted_past_padding(m: Words, ids: Tensor) -> Tensor:
    mask = ids.ne(1).int()
    return m.places((mask.cumsum(1) * mask).long() + 1) + m.words(ids)


def kinds(m: Words, ids: Tensor) -> Tensor:
    return m.places(torch.zeros_like(ids)) + m.words(ids)


def looked_up(m: Words, ids: Tensor) -> Tensor:
    table = torch.arange(12).flip(0)
    return m.places(ids.new_zeros(ids.shape)) + m.words(table[table[ids]])


def shifted(m: Words, ids: Tensor) -> Tensor:
    given = torch.full_like(ids, 9)
    given[:, 1:] = ids[:, :-1]
    return m.places(torch.arange(4)) + m.words(torch.where(given == 1, 0, given))


def padded(m: Words, ids: Tensor) -> Tensor:
    given = torch.cat([F.pad(ids, (1, 0)), ids.clamp(max=6)], 1)
    return m.places(torch.arange(9)) + m.words(given.T.contiguous()).transpose(0, 1)


def through_numpy(m: Words, ids: Tensor) -> Tensor:
    return m.places(torch.arange(4)) + m.words(torch.from_numpy(ids.numpy().copy()))


EMBEDS = [counted, counted_past_padding, kinds, looked_up, shifted, padded, through_numpy]


@pytest.mark.parametrize("embed", EMBEDS, ids=lambda f: f.__name__)
def test_positions_first_are_not_the_input(embed: Forward) -> None:
    net = Words(embed)
    rows: list[Tensor] = []
    hook = net.words.register_forward_hook(lambda m, args, out: rows.append(out))
    net(IDS)
    hook.remove()
    for target in (None, 1):
        assert torch.equal(ll.trace(net, IDS, "input", target=target)["input"].act, rows[0])


@pytest.mark.parametrize("embed", [counted, counted_past_padding, kinds])
def test_what_positions_keep_is_booked(embed: Forward) -> None:
    """Without biases the net is homogeneous: words and positions share the score by x g."""
    net, x = Words(embed), {}
    for name in ("words", "places"):

        def hold(module: Any, args: Any, out: Tensor, name: str = name) -> None:
            x[name] = out.retain_grad() or out

        getattr(net, name).register_forward_hook(hold)
    net(IDS)[:, 1].sum().backward()
    parts = {name: (t * t.grad).detach().sum((1, 2)) for name, t in x.items()}
    score = net(IDS)[:, 1].detach()
    net = Words(embed)
    for i, m in enumerate(ll.maps(net, IDS, "lrp:lrp0", target=1)):
        assert m.about.kept == pytest.approx(float(parts["words"][i] / score[i]), rel=1e-4)
    books = ll.ledger(net, IDS, "lrp:lrp0", target=1)
    assert books.kept == pytest.approx(float(parts["words"].sum() / score.sum()), rel=1e-4)
    assert books.total.bias == pytest.approx(float(parts["places"].sum()), rel=1e-4)
    assert books.leaks(1e-4) == ()


def test_ids_beside_the_explained_ones_have_a_site_of_their_own() -> None:
    def embed(m: Words, ids: Tensor, places: Tensor) -> Tensor:
        return m.places(places) + m.words(ids)

    net, places = Words(embed), torch.tensor([[0, 1, 2, 3]] * 2)
    given = {"ids": IDS, "places": places}
    trace = ll.trace(net, given, ["input", "input.places"], target=1)
    assert torch.equal(trace["input"].act, net.words(IDS))
    assert torch.equal(trace["input.places"].act, net.places(places))
    grads = trace["input"].grad, trace["input.places"].grad
    torch.testing.assert_close(*grads)
    same = ll.trace(net, {"ids": IDS, "places": IDS}, "input", target=1)
    assert torch.equal(next(iter(same.values())).act, net.places(IDS))  # one tensor, both its


def test_an_input_that_no_embedding_looks_up_is_refused() -> None:
    def embed(m: Words, ids: Tensor) -> Tensor:
        return m.places(torch.arange(4)) + F.one_hot(ids, 12).float() @ m.words.weight

    for call in (
        lambda: ll.maps(Words(embed), IDS, "gradient", target=1),
        lambda: ll.trace(Words(embed), IDS, "input"),
    ):
        with pytest.raises(ProbeError, match="of 1 embeddings that ran none looked"):
            call()
    assert ll.trace(Words(embed), IDS, "inner")["inner"].act.shape == (2, 4, 6)

"""Re-identification: the gate and its rivals, where they stand, similarities, trade-offs."""

from __future__ import annotations

import time

import pytest
import torch
import torch.nn.functional as F
from fill import fill
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import limelight as ll
from limelight.models import load
from limelight.models.layers.gates import GATES, LittleAttention, gate
from limelight.models.weights.load import no_init
from limelight.models.zoo.reid_lba import (
    Located,
    SimilarityOfTwo,
    effects,
    pareto_front,
    search,
    slow_down,
)
from limelight.probe.errors import ModelError, OptionError
from limelight.reports.explanation.mixer import mixer_of

SMALL = {"layers": (1, 2), "width": 16, "num_classes": 5}


def small(**hyper):
    model = load("reid_lba", **{**SMALL, "locations": "11", **hyper})
    fill(model, 1)
    return model, torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))


def test_the_gate_computes_the_written_formula():
    made = LittleAttention(32, 8).double()
    fill(made, 2)
    x = torch.randn(2, 32, 6, 5, dtype=torch.float64)
    a = made.fc2(made.fc1(x.mean((2, 3))).clamp(min=0)).sigmoid()
    s = F.interpolate(made.conv(x.mean(1, keepdim=True)), (6, 5), mode="bilinear")
    s = (s * made.point.weight.item() + made.point.bias.item()).sigmoid()
    w, b = made.mix.weight.flatten(), made.mix.bias
    g = (w[:, None, None] * a[..., None, None] * s + b[:, None, None]).sigmoid()
    torch.testing.assert_close(made(x), x * g)


def test_the_gate_is_nearly_open_at_the_start_and_is_nothing_when_forced_open():
    made, x = LittleAttention(32), torch.randn(2, 32, 8, 4)
    with torch.no_grad():
        assert float((made(x) / x).min()) > 0.98
    open_gate = ll.patch(made, x, {":gate": lambda g, _: torch.ones_like(g)})
    torch.testing.assert_close(open_gate, x, rtol=0, atol=0)
    model, x = small()
    plain = load("reid_lba", **SMALL, locations="00")
    plain.load_state_dict({n: v for n, v in model.state_dict().items() if "attention" not in n})
    with torch.no_grad():
        want = plain(x)
        assert not torch.allclose(model(x), want)
    opened = ll.patch(model, x, {"attention.*:gate": lambda g, _: torch.ones_like(g)})
    torch.testing.assert_close(opened, want)


@pytest.mark.parametrize("kind", GATES)
def test_every_gate_keeps_the_shape_and_fits_the_network(kind):
    x = torch.randn(2, 32, 6, 4)
    assert gate(kind, 32).eval()(x).shape == x.shape
    model, x = small(attention=kind)
    assert type(model.attention["1"]) is type(gate(kind, 64))
    found = ll.maps(model, x, "gradcam", target=ll.similar(torch.ones(128)), sites="layer2.1")
    assert found[0].values.isfinite().all()


@pytest.mark.parametrize(
    ("locations", "per", "places"),
    [
        ("0000", "stage", []),
        ("0101", "stage", ["7", "16"]),
        ("1000000000000010", "block", ["1", "15"]),
    ],
)
def test_a_mask_says_where_gates_stand(locations, per, places):
    with torch.device("meta"), no_init():
        model = load("reid_lba", locations=locations, per=per)
    assert list(model.attention) == places
    widths = [model.attention[p].fc1.in_features for p in places]
    assert widths == [model.widths[int(p) - 1] for p in places]


def test_what_a_gate_costs():
    """Per gate of C channels: 2 C C/16 + C/16 + C of the two maps, 10 + 2 of places, 2 C."""

    def costs(**hyper):
        with torch.device("meta"), no_init():
            model, x = load("reid_lba", **hyper), torch.empty(1, 3, 256, 128)
        with FlopCounterMode(display=False) as counted, torch.no_grad():
            model(x)
        return counted.get_total_flops() / 2, sum(p.numel() for p in model.parameters())

    plain, gated = costs(locations="0000"), costs(locations="0111")
    widths = {512: 32 * 16, 1024: 16 * 8, 2048: 16 * 8}
    more = sum(2 * c * (c // 16) + c // 16 + c + 12 + 2 * c for c in widths)
    assert gated[1] - plain[1] == more
    multiplied = sum(
        2 * c * (c // 16) + 9 * (places // 4) + places + c * places for c, places in widths.items()
    )
    assert gated[0] - plain[0] == multiplied
    assert multiplied < 0.001 * plain[0]
    assert plain[1] == 25_557_032 - (2048 * 1000 + 1000) + 2048 * 2 + 2048 * 751


def test_the_last_stage_keeps_its_pictures_and_the_neck_has_no_learned_shift():
    with torch.device("meta"), no_init():
        model = load("reid_lba")
        found = model.features(torch.empty(1, 3, 256, 128))
        halved = load("reid_lba", last_stride=2).features(torch.empty(1, 3, 256, 128))
    assert (found.shape[1:], halved.shape[1:]) == ((2048, 16, 8), (2048, 8, 4))
    assert not model.bottleneck.bias.requires_grad
    assert model.bottleneck.weight.requires_grad
    assert model.classifier.bias is None
    assert model.card.size == (256, 128)


def test_the_embedding_is_read_behind_the_neck_or_before_it():
    model, x = small(return_logits=True)
    other = load("reid_lba", **SMALL, locations="11", embedding="before")
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        out, before = model(x), other(x)
        torch.testing.assert_close(model.bottleneck(before), out["embedding"])
        torch.testing.assert_close(model.classifier(out["embedding"]), out["logits"])
        torch.testing.assert_close(before, model.features(x).mean((2, 3)))
    assert out["logits"].shape == (2, 5)


def test_the_trunk_is_that_of_a_resnet():
    resnet = load("resnet50", weights=None, layers=(1, 2), width=16)
    fill(resnet, 3)
    model, x = small(locations="00", last_stride=2, embedding="before")
    model.load_trunk(resnet.state_dict())
    resnet.fc = nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(model(x), resnet(x))
    neck = model.bottleneck.weight.clone()
    model.load_trunk(resnet.state_dict())
    torch.testing.assert_close(model.bottleneck.weight, neck, rtol=0, atol=0)
    with pytest.raises(ModelError, match=r"'layer2.0.bn1.bias' is missing or of another shape"):
        model.load_trunk(load("resnet50", weights=None, layers=(1,), width=16).state_dict())


def test_relevance_of_a_similarity_lies_on_both_pictures_by_halves():
    net, _ = small()
    with torch.no_grad():
        for name, p in (*net.named_parameters(), *net.named_buffers()):
            if name.endswith(("bias", "running_mean")) and "mix" not in name:
                p.zero_()
    pair = SimilarityOfTwo(net).double().eval()
    query, gallery = torch.randn(2, 1, 3, 64, 32, dtype=torch.float64)
    with torch.no_grad():
        score = float(pair(query, gallery))
        want = torch.cosine_similarity(net(query), net(gallery))
        assert score == pytest.approx(float(want))
    books = ll.ledger(pair, (query, gallery), "lrp:epsilon", target=0)
    assert max(abs(row.leak) for row in books) <= 1e-4 * max(row.absolute for row in books)
    axes = {"input.1": "b c y x"}
    sites = ["input", "input.1"]
    one, other = ll.maps(pair, (query, gallery), "lrp:lrp0", target=0, sites=sites, axes=axes)
    assert one.values.shape == other.values.shape == (64, 32)
    assert float(one.values.sum()) == pytest.approx(score / 2, rel=1e-4)
    assert float(other.values.sum()) == pytest.approx(score / 2, rel=1e-4)
    swapped = ll.maps(pair, (gallery, query), "lrp:lrp0", target=0, sites=sites, axes=axes)
    torch.testing.assert_close(swapped[0].values, other.values)


def test_a_pair_is_a_model_of_the_zoo_that_knows_its_second_picture():
    pair = load("reid_lba_pair", **SMALL, locations="11")
    fill(pair, 1)
    given = {"query": torch.randn(2, 3, 64, 32), "gallery": torch.randn(2, 3, 64, 32)}
    sites = ["input", "input.gallery"]
    found = ll.maps(pair, given, "lrp:epsilon", target=0, sites=sites)
    assert [str(m.site) for m in found] == sites * 2
    assert all(m.axes == "y x" for m in found)


def test_a_pair_takes_the_checkpoint_of_its_network(tmp_path):
    model, x = small()
    path = tmp_path / "reid.pth"
    torch.save(model.state_dict(), path)
    pair = load("reid_lba_pair", path, **SMALL, locations="11")
    with torch.no_grad():
        want = torch.cosine_similarity(model(x[:1]), model(x[1:]))
        torch.testing.assert_close(pair(x[:1], x[1:])[:, 0], want)


def test_figures_show_both_gates():
    model, x = small()
    mixer = mixer_of(model, x[:1], "x", {"input": "b c y x"})
    assert [f.title for f in mixer.figures] == ["Gates of places", "Gates of channels"]
    assert mixer.undrawn == ()


def test_the_front_holds_what_nothing_beats():
    def row(mask, score, cost):
        return Located(mask, score, cost)

    tried = [
        row("00", 0.5, 1.0), row("01", 0.7, 1.2), row("10", 0.6, 1.3), row("11", 0.9, 1.5),
    ]  # fmt: skip
    assert [t.mask for t in pareto_front(tried)] == ["00", "01", "11"]
    assert [t.mask for t in pareto_front([*tried, row("xx", 0.7, 1.2)])] == ["00", "01", "xx", "11"]
    assert [t.mask for t in pareto_front([*tried, row("y", 0.9, 1.0)])] == ["y"]
    assert pareto_front([row("z", float("nan"), 1.0)]) == ()


def test_what_a_location_changes_is_a_mean_over_pairs():
    tried = [
        Located("00", 0.5, 1.0), Located("01", 0.7, 1.2), Located("10", 0.6, 1.3),
        Located("11", 0.9, 1.5),
    ]  # fmt: skip
    first, second = effects(tried)
    assert first == pytest.approx(((0.1 + 0.2) / 2, (0.3 + 0.3) / 2))
    assert second == pytest.approx(((0.2 + 0.3) / 2, (0.2 + 0.2) / 2))
    alone = effects(tried[:2])
    assert alone[0][0] != alone[0][0]
    assert alone[1] == pytest.approx((0.2, 0.2))


def test_a_search_tries_all_masks_or_evolves_towards_the_front():
    def score(mask):
        return sum(0.1 * int(bit) for bit in mask[:2])

    whole = search(score, lambda mask: mask.count("1"), 4)
    assert len({t.mask for t in whole}) == len(whole) == 16
    best = pareto_front(whole)
    assert {t.mask for t in best} == {"0000", "1000", "0100", "1100"}
    some = search(score, lambda mask: mask.count("1"), 16, trials=120, seed=3)
    assert len({t.mask for t in some}) == 120
    assert "11" + "0" * 14 in {t.mask for t in pareto_front(some)}
    assert some == search(score, lambda mask: mask.count("1"), 16, trials=120, seed=3)
    with pytest.raises(OptionError, match="16 locations in 3 trials"):
        search(score, score, 16, trials=3)


class Clock:
    """Seconds that networks spend by saying so."""

    now = 0.0

    def takes(self, *seconds: float) -> nn.Module:
        each = iter(seconds)

        class Timed(nn.Module):
            def forward(_, x):  # noqa: N805
                self.now += next(each)
                return x

        return Timed()


def test_a_slow_down_is_the_median_of_ratios_within_a_round(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    net = clock.takes(90.0, 2.2, 30.0, 4.4)
    plain = clock.takes(50.0, 2.0, 3.0, 4.0)
    x = torch.zeros(1)
    assert slow_down(net, plain, x, rounds=3, warm_up=1) == pytest.approx(1.1)
    with pytest.raises(OptionError, match="rounds=0"):
        slow_down(net, plain, x, rounds=0)


@pytest.mark.parametrize(
    ("build_it", "words"),
    [
        (lambda: load("reid_lba", locations="011"), "locations='011' was given for 4 stages"),
        (lambda: load("reid_lba", locations="0120"), "locations='0120' was given for 4 stages"),
        (lambda: load("reid_lba", per="block"), "'0111' was given for 16 blocks"),
        (lambda: load("reid_lba", per="layer"), "per='layer' is unknown"),
        (lambda: load("reid_lba", attention="sea"), "no gate 'sea' of feature maps"),
        (lambda: load("reid_lba", embedding="neck"), "embedding='neck' is unknown"),
        (lambda: load("reid_lba", layers=(1, 0)), r"layers=\(1, 0\) were asked of a ResNet"),
        (lambda: load("reid_lba_pair", return_logits=True), "compares embeddings, but"),
        (lambda: LittleAttention(8), "reduction=16 of 8 channels leaves none"),
    ],
)
def test_what_does_not_fit_is_one_sentence(build_it, words):
    with pytest.raises(OptionError, match=words):
        build_it()

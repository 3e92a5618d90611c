"""MOAT against published sizes, TensorFlow's names and values; windows, biases, bad options."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from fill import fill, image, value
from shared import TESTS, golden

import limelight as ll
from limelight.models import load
from limelight.models.weights.load import no_init
from limelight.models.zoo.moat.names import averaged, from_tensorflow
from limelight.probe.errors import ModelError, OptionError, WeightsError

SMALL = {"stem_size": (8, 16), "block_type": ("mbconv", "moat"), "num_blocks": (1, 2),
         "hidden_size": (16, 32), "head_size": 16, "position_embedding_size": (None, 3),
         "num_classes": 5}  # fmt: skip
ATTENTION = "block_01_00.attention"
TENSORFLOW = json.loads((TESTS / "parity" / "moat.tensorflow.json").read_text())


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("tiny_moat0", 3.4),
        ("tiny_moat1", 5.1),
        ("tiny_moat2", 9.8),
        ("tiny_moat3", 19.5),
        ("moat0", 27.8),
        ("moat1", 41.6),
        ("moat2", 73.4),
        ("moat3", 190.0),
        ("moat4", 483.2),
    ],
)
def test_published_sizes_with_and_without_position_embedding(name, millions):
    with torch.device("meta"), no_init():
        model, bare = load(name, weights=None), load(f"{name}_no_pe", weights=None)
    counts = [sum(p.numel() for p in m.parameters()) for m in (model, bare)]
    assert counts[0] / 1e6 == pytest.approx(millions, abs=0.05)
    tables = [p.numel() for n, p in model.named_parameters() if "position" in n]
    assert counts[0] - counts[1] == sum(tables) > 0
    assert not any("position" in n for n, _ in bare.named_parameters())


def test_every_variant_names_its_checkpoint_and_preprocessing():
    cards = {card.name: card for card in ll.list_models("*moat*")}
    assert len(cards) == 18
    for name, card in cards.items():
        (plain,) = {source.url for source in card.weights.values()}
        assert plain.rsplit("/", 1)[1].startswith(f"{name.removesuffix('_no_pe')}_imagenet")
        word = "_wo_" if name.endswith("_no_pe") else "_w_"
        assert f"{card.size}{word}position_embedding.tar.gz" in plain
        half = name.removesuffix("_no_pe") in ("moat2", "moat3", "moat4")
        assert card.mean == ((0.5,) * 3 if half else (0.485, 0.456, 0.406))
    other = {"moat2_finetune_384_no_pe_22k": "moat2_no_pe", "moat4_finetune_512_22k": "moat4",
             "tiny_moat1_pretrain_256_no_pe_1k": "tiny_moat1_no_pe"}  # fmt: skip
    with torch.device("meta"), no_init():
        assert {name: load(name, weights=None).card.name for name in other} == other


def stored(x, shape, name):
    """A parameter as TensorFlow stores it."""
    if x.ndim == 4:
        depthwise = "depthwise" in name
        return x.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
    return x.T.reshape(shape) if x.ndim == 2 else x.reshape(shape)


def test_tensorflows_names_load_and_give_the_golden_logits(tmp_path):
    case = golden("moat.tiny0_256")
    shapes = {name: shape for name, shape, *_ in case.case["parameters"] + case.case["buffers"]}
    state = {}
    for name, (theirs, shape) in case.case["tf_names"].items():
        x = torch.from_numpy(stored(value(name, shapes[name]), shape, name).copy())
        assert list(x.shape) == shape
        state[theirs] = x
        state[f"{theirs}/ExponentialMovingAverage"] = torch.zeros_like(x)
        state[f"{theirs}/Adam"] = torch.zeros_like(x)
    state["global_step"] = torch.tensor(7)
    torch.save(state, tmp_path / "w.pth")
    model = load("tiny_moat0", tmp_path / "w.pth")
    with no_init():
        want = load("tiny_moat0", weights=None)
    fill(want)
    assert all(torch.equal(x, want.state_dict()[n]) for n, x in model.state_dict().items())
    with torch.no_grad():
        case.close("logits", model(torch.from_numpy(image((1, 3, 256, 256), 0))))


@pytest.mark.golden
def test_a_checkpoint_that_tensorflow_wrote_gives_its_results():
    x = torch.from_numpy(image(TENSORFLOW["input"]["shape"], TENSORFLOW["input"]["seed"]))
    path = TESTS / "parity" / "moat.tensorflow.tar.gz"
    model = load("moat0", path, **TENSORFLOW["config"])
    ends = load("moat0", weights=None, **{**TENSORFLOW["config"], "num_classes": None})
    head = ("final_layer_norm", "logits_head")
    state = {n: x for n, x in model.state_dict().items() if not n.startswith(head)}
    ends.load_state_dict(state)
    told = TENSORFLOW["outputs"]
    with torch.no_grad():
        logits, found = model(x), ends(x)
    atol = 1e-4 * TENSORFLOW["stds"]["logits"]
    torch.testing.assert_close(logits, torch.tensor(told["logits"]), rtol=1e-4, atol=atol)
    for key in ("stage2", "stage3"):
        assert list(found[key].shape) == told[key]["shape"]
        first = found[key].flatten()[: len(told[key]["first"])]
        atol = 1e-4 * float(found[key].std())
        torch.testing.assert_close(first, torch.tensor(told[key]["first"]), rtol=1e-4, atol=atol)


def test_moving_averages_take_the_place_of_their_variables():
    state = {"moat/a/gamma": torch.ones(2), "moat/a/gamma/ExponentialMovingAverage": torch.zeros(2),
             "moat/a/beta": torch.ones(2)}  # fmt: skip
    assert {n: x.sum().item() for n, x in from_tensorflow(state).items()} == {
        "a.weight": 2.0,
        "a.bias": 2.0,
    }
    assert {n: x.sum().item() for n, x in from_tensorflow(averaged(state)).items()} == {
        "a.bias": 2.0,
        "a.weight": 0.0,
    }
    with pytest.raises(WeightsError, match="none of its 1 variables ends in"):
        averaged({"moat/a/gamma": torch.ones(2)})


def test_other_entries_and_shapes_of_a_checkpoint_are_told(tmp_path):
    with pytest.raises(WeightsError, match="has 2 dimensions where a kernel has 4"):
        from_tensorflow({"moat/stem/conv_0/kernel": torch.zeros(3, 3)})
    torch.save({"moat/extra/kernel": torch.zeros(1, 1, 2, 3)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"1 unexpected \(extra.weight\)"):
        load("moat0", tmp_path / "w.pth", **SMALL)


def test_a_table_of_another_size_is_resized_and_other_heads_are_refused(tmp_path):
    model = load("moat0", weights=None, **SMALL)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    larger = {**SMALL, "position_embedding_size": (None, 4)}
    other = load("moat0", tmp_path / "w.pth", **larger)
    table = model.block_01_00.attention.relative_position_embedding
    want = F.interpolate(table[None], (7, 7), mode="bilinear")[0]
    assert torch.equal(other.block_01_00.attention.relative_position_embedding, want)
    with pytest.raises(WeightsError, match=r"of another shape .*\(2, 5, 5\) for \(4, 5, 5\)"):
        load("moat0", tmp_path / "w.pth", **{**SMALL, "head_size": 8})


def test_other_classes_than_a_files_start_a_fresh_head(tmp_path):
    model = load("moat0", weights=None, **SMALL)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    with pytest.warns(UserWarning, match="'logits_head' of the model starts with random weights"):
        other = load("moat0", tmp_path / "w.pth", **{**SMALL, "num_classes": 9})
    assert other.logits_head.weight.shape == (9, 32, 1, 1)
    assert torch.equal(other.stem.conv_0.weight, model.stem.conv_0.weight)


def test_the_resized_bias_is_a_site_and_says_key_minus_query():
    torch.manual_seed(0)
    model = load("moat0", weights=None, **SMALL)
    sites = [f"{ATTENTION}:position_bias", f"{ATTENTION}:bias"]
    table, bias = (v.act for v in ll.trace(model, torch.randn(1, 3, 32, 48), sites).values())
    own = model.block_01_00.attention.relative_position_embedding
    want = F.interpolate(own[None], (7, 11), mode="bilinear")[0]  # a map of 4 x 6
    torch.testing.assert_close(table, want)
    for query, key in ((0, 23), (23, 0), (7, 8), (8, 13), (5, 5)):
        (qy, qx), (ky, kx) = divmod(query, 6), divmod(key, 6)
        assert torch.equal(bias[:, query, key], table[:, ky - qy + 3, kx - qx + 5])


def test_the_bias_can_be_edited_and_only_its_attention_changes():
    torch.manual_seed(0)
    model = load("moat0", weights=None, **SMALL)
    x = torch.randn(1, 3, 32, 32)
    path = f"{ATTENTION}:map"

    def far_down(table, _):
        table = table.clone()
        table[:, -1, 3] = 50.0  # straight down by three of four rows
        return table

    with ll.Probe(model, grad=False) as p:
        p.watch(path)
        p.edit({f"{ATTENTION}:position_bias": far_down})
        p(x)
        share = p.trace[path].act[0].unflatten(1, (4, 4)).unflatten(3, (4, 4))
    for column in range(4):
        assert share[:, 0, column, 3, column].min() > 0.999
    assert share[:, 1:].max() < 0.9


def test_windows_see_themselves_and_are_what_they_leave_of_the_whole_map():
    torch.manual_seed(0)
    windows = {"window_size": (None, (2, 4)), "relative_position_embedding_type": None}
    cut = load("moat0", None, **SMALL, **windows)
    whole = load("moat0", None, **SMALL, relative_position_embedding_type=None)
    whole.load_state_dict(cut.state_dict())
    x, path = torch.randn(2, 3, 64, 64), f"{ATTENTION}:map"
    for layer in (cut.block_01_00.attention.q, whole.block_01_00.attention.q):
        torch.nn.init.constant_(layer.weight, 0.3)
    parts = [ll.trace(model, x, path)[path].act for model in (cut, whole)]
    mass = [
        ll.maps(model, x, "attention_mass,window=2x4", sites=ATTENTION).stack()
        for model in (cut, whole)
    ]
    torch.testing.assert_close(mass[0], torch.ones(2, 2).double())
    y, x_ = torch.arange(64) // 8, torch.arange(64) % 8
    tile = y // 2 * 2 + x_ // 4
    confined = parts[1] * (tile[:, None] == tile)
    confined = confined / confined.sum(-1, keepdim=True)
    torch.testing.assert_close(parts[0], confined, rtol=1e-4, atol=1e-6)
    variation = (parts[1] - parts[0]).abs().sum(-1).mean(-1) / 2
    torch.testing.assert_close(1 - mass[1], variation.double(), rtol=1e-4, atol=1e-5)
    assert 0.01 < mass[1].max() < 0.9


def test_a_window_of_the_whole_map_is_no_window_and_the_last_block_may_have_none():
    torch.manual_seed(0)
    plain = load("moat0", weights=None, **SMALL)
    x = torch.randn(1, 3, 32, 64)
    for window, end, same in (((4, 8), False, True), ((2, 4), False, False), ((2, 4), True, False)):
        other = load(
            "moat0",
            weights=None,
            **SMALL,
            window_size=(None, window),
            global_attention_at_end_of_moat_stage=end,
        )
        other.load_state_dict(plain.state_dict())
        assert torch.equal(other(x), plain(x)) == same
        last = other.block_01_01.attention.window
        assert last == (None if end else window)
        assert other.block_01_00.attention.window == window


def test_without_classes_the_stages_come_out_with_their_activations():
    model = load("moat0", weights=None, **{**SMALL, "num_classes": None})
    with torch.no_grad():
        ends = model(torch.randn(2, 3, 45, 62))
    sizes = {"1": (16, 23, 31), "2": (16, 12, 16), "3": (32, 6, 8)}
    assert {key: tuple(x.shape[1:]) for key, x in ends.items()} == {
        f"{word}{n}": size for n, size in sizes.items() for word in ("stage", "res")
    }
    assert all(torch.equal(ends[f"res{n}"], F.gelu(ends[f"stage{n}"])) for n in sizes)


def test_branches_are_kept_by_the_authors_shares():
    model = load("tiny_moat3", weights=None)
    drops = [block.drop for name, block in model.named_children() if name.startswith("block")]
    assert drops == pytest.approx([0.1 * n / 14 for n in range(14)])
    assert load("tiny_moat2", weights=None).block_03_01.drop == 0.0
    torch.manual_seed(0)
    block = load("moat0", None, **SMALL, survival_prob=0.25).train().block_01_01
    x = torch.randn(64, 32, 4, 4)
    kept = (block(x) - x).flatten(1).abs().amax(1) > 0
    assert block.drop == pytest.approx(0.5)
    assert 0.5 < kept.float().mean() < 0.95  # one of two branches is there for 3 of 4


def test_options_by_stage_and_the_authors_other_names():
    model = load("moat0", None, **SMALL, expansion_rate=[3, 2], se_ratio=None, pool_size=[2, 3],
                 stage_stride=[3, 1], ln_epsilon=1e-3, activation="gelu (erf)")  # fmt: skip
    assert model.block_00_00.expand_conv.weight.shape[0] == 48
    assert model.block_01_00.expand_conv.weight.shape[0] == 64
    assert isinstance(model.block_00_00.se, torch.nn.Identity)
    assert isinstance(model.block_01_00.shortcut_pool, torch.nn.Identity)
    assert model.final_layer_norm.eps == 1e-3
    assert model(torch.randn(1, 3, 37, 50)).shape == (1, 5)
    classes = {key: v for key, v in SMALL.items() if key != "num_classes"}
    named = load("moat0", weights=None, **classes, build_classification_head_with_class_num=9)
    assert named.logits_head.out_channels == 9


@pytest.mark.parametrize(
    ("hyper", "told"),
    [
        (
            {"num_blocks": (1, 1, 1)},
            r"num_blocks=\[1, 1, 1\] names 3 stages but block_type names 2",
        ),
        ({"block_type": ("mbconv", "moad")}, "'moad', which is no block; did you mean 'moat'"),
        ({"head_size": 12}, "hidden_size 32 of a moat stage does not divide by head_size=12"),
        ({"window_size": 7}, "window_size=7 names no stages"),
        ({"window_size": (None, 7)}, r"window_size has 7: give \(rows, columns\)"),
        ({"window_size": (None, (0, 7))}, r"window_size has \(0, 7\)"),
        ({"se_ratio": 1.5}, "se_ratio=1.5 is no share"),
        ({"survival_prob": 0.0}, "survival_prob=0.0 is no share of kept branches"),
        ({"pool_size": 0}, "pool_size has 0: give whole numbers"),
        ({"position_embedding_size": None}, "position_embedding_size has None for a moat stage"),
        ({"relative_position_embedding_type": "1d"}, "write '2d_multi_head' or None"),
        ({"stem_size": ()}, "a MOAT needs a stem and a stage"),
        ({"activation": "gelo"}, "did you mean 'gelu'"),
        ({"use_checkpointing_for_attention": True}, "keeps use_checkpointing_for_attention=False"),
    ],
)
def test_what_cannot_be_built_is_told_in_one_sentence(hyper, told):
    with pytest.raises(OptionError, match=told) as caught:
        load("moat0", weights=None, **{**SMALL, **hyper})
    assert "\n" not in str(caught.value)


def test_a_map_that_windows_do_not_tile_is_told():
    model = load("moat0", None, **SMALL, window_size=(None, (3, 4)))
    with pytest.raises(ModelError, match="4 x 4 does not divide into windows of 3 x 4"):
        model(torch.randn(1, 3, 32, 32))


def test_relevance_is_kept_where_nothing_has_a_bias():
    torch.manual_seed(0)
    model = load("moat0", weights=None, **SMALL).double()
    fill(model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(".bias"):
                p.zero_()
        for name, b in model.named_buffers():
            if name.endswith("running_mean"):
                b.zero_()
    books = ll.ledger(model, torch.randn(1, 3, 45, 64).double(), "lrp:epsilon", target=ll.label(3))
    assert books.kept == pytest.approx(1.0, abs=1e-4)


def test_checkpointing_changes_no_gradient():
    torch.manual_seed(0)
    model = load("moat0", weights=None, **SMALL)
    x, found = torch.randn(1, 3, 32, 32), []
    for enable in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        model(x).sum().backward()
        found.append(model.block_01_00.attention.relative_position_embedding.grad.clone())
    torch.testing.assert_close(*found)

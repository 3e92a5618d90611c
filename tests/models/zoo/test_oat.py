"""OAT: its golden cases, position codes, pyramid, scanpaths, what drives a step, and its errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fill import fill, value
from shared import Golden, golden
from torch import Tensor, nn

import limelight as ll
from limelight.methods.metrics import SHELVES
from limelight.models import load
from limelight.models.weights.load import no_init
from limelight.models.zoo.oat.model import OAT
from limelight.models.zoo.oat.objects import pyramid
from limelight.models.zoo.oat.positions import fitted_table, position_codes
from limelight.models.zoo.oat.shelf import Grid
from limelight.probe.errors import ModelError, OptionError, TargetError

CASES = ("oat.amazon", "oat.yogurt_linear")
SMALL: dict[str, Any] = {
    "rows": 2,
    "cols": 3,
    "patch": (32, 29),
    "emb_size": 48,
    "num_heads": 3,
    "dim_feedforward": 40,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "ca_d_k": 16,
}


def small(**hyper: Any) -> OAT:
    torch.manual_seed(0)
    model = load("oat_wine", weights=None, **{**SMALL, **hyper})
    assert isinstance(model, OAT)
    return model


def trial(count: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    shelf = torch.rand(count, 6, 32, 29, 3, generator=draw)
    return (
        shelf,
        torch.tensor([4, 1][:count]),
        torch.tensor([[8, 2, 2, 5, 4], [8, 1, 6, 7, 7]][:count]),
    )


def recorded(name: str) -> tuple[Golden, OAT, tuple[Tensor, Tensor, Tensor]]:
    """A golden case, its model with the case's weights, and the recipe's input."""
    case = golden(name)
    about, given = case.case, case.case["input"]
    config = dict(about["config"])
    if config["functionChoice"] == "learned":
        config["pe"] = value("pe", (14, 86), about["salt"])
    with no_init():
        model = load(f"oat_{config['layout']}", weights=None, **config)
    fill(model, about["salt"])
    draw = np.random.RandomState(given["seed"])
    shelf = torch.from_numpy(draw.uniform(0, 1, given["shape"]).astype(np.float32))
    sequence = torch.tensor(given["sequence"])[:, :-1]
    assert isinstance(model, OAT)
    return case, model, (shelf, torch.tensor(given["target"]), sequence)


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Golden, OAT, tuple[Tensor, Tensor, Tensor]]:
    return recorded(request.param)


def test_names_shapes_and_counts_are_the_published_ones(case):
    about, model, _ = case
    listed = {name: shape for name, shape, *_ in about.case["parameters"] + about.case["buffers"]}
    assert {name: list(x.shape) for name, x in model.state_dict().items()} == listed
    assert sum(p.numel() for p in model.parameters()) == about.case["n_params"]


def test_keywords_of_the_constructor_build_the_same(case):
    about, model, _ = case
    given = {k: v for k, v in about.case["constructor"]["kwargs"].items() if k != "PE_path"}
    pe = value("pe", (14, 86)) if given["functionChoice"] == "learned" else None
    layout = about.case["config"]["layout"]
    table = {} if pe is None else {"PE_path": pe}
    with no_init():
        again = load(f"oat_{layout}", weights=None, **given, **table)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.positions.codes, model.positions.codes)


def test_places_are_the_recorded_ones(case):
    about, model, (_, target, sequence) = case
    given = about.case["input"]
    row, column = model.grid.places(sequence)
    found = torch.stack([row, column, (sequence == target[:, None]).long()], -1)
    want = torch.tensor(given["target_index_triples"]).trunc().long()
    assert torch.equal(found.transpose(0, 1), want)


@pytest.mark.golden
def test_recorded_outputs(case):
    about, model, x = case
    sites = {
        "cnn": ("cnn_embedding@0", None),
        "tgt_embed": (":fixations", (0, 1)),
        "enc0": ("transformer_encoder.layers.0", (0, 1)),
        "enc": ("transformer_encoder", (0, 1)),
        "dec0": ("transformer_decoder.layers.0", (0, 1)),
        "dec": ("transformer_decoder", (0, 1)),
        "att0": ("cross_attentions.0:scores", (0, 1)),
    }
    found = ll.trace(model, x, sites=[site for site, _ in sites.values()])
    values = {"logits": found.output.transpose(0, 1)}
    for key, (site, swapped) in sites.items():
        act = found[site].act
        values[key] = act.transpose(*swapped) if swapped else act
    values["cnn"] = torch.cat(
        [values["cnn"], values["cnn"].gather(1, x[1][:, None, None].expand(-1, 1, 256))], 1
    )
    values["att0"] = values["att0"][..., None]
    assert values.keys() == {entry["key"] for entry in about.case["outputs"]}
    for key, made in values.items():
        assert about.worst(key, made) <= 1e-5, key  # the case allows 1e-4


def wave(place: float, function: str, alpha: float, d: int = 86) -> Tensor:
    """The sheet's formula, a number at a time."""
    rate = {
        "original": lambda k: 10000 ** (-k / d),
        "exp1": lambda k: k**alpha / d,
        "exp2": lambda k: (k / d) ** alpha,
        "linear": lambda k: k * alpha / d,
    }[function]
    angles = [place * rate(k) for k in range(0, d, 2)]
    return torch.tensor([f(a) for a in angles for f in (np.sin, np.cos)], dtype=torch.float32)


@pytest.mark.parametrize("function", ["original", "exp1", "exp2", "linear"])
@pytest.mark.parametrize(
    ("change_x", "down", "across"), [("None", 1, 1), ("True", 1.6, 1), ("False", 1, 0.6)]
)
def test_sinusoids_are_the_formula(function, change_x, down, across):
    codes = position_codes(3, 9, 256, function, alpha=0.7, change_x=change_x).codes
    parts = wave(2 * down, function, 0.7), wave(5 * across, function, 0.7), wave(1, function, 0.7)
    want = torch.cat(parts)[:256]
    torch.testing.assert_close(codes[2, 5, 1], want, rtol=1e-5, atol=1e-5)


def test_rows_behind_a_shelf_of_sinusoids():
    end = torch.tensor([[27, 28]])
    for layout, known in (((3, 9), False), ((2, 11), True)):  # the tables have three rows
        grid = Grid(*layout)
        codes = position_codes(*layout, 256, "original")
        marks = torch.tensor([grid.end, grid.padding])
        row, column = grid.places(marks)
        assert row.tolist() == [layout[0]] * 2
        assert column.tolist() == [0, 1]
        found = codes(row, column, torch.zeros(2, dtype=torch.long))
        assert bool(found.any()) is known
    assert Grid(3, 9).places(end)[0].tolist() == [[3, 3]]


def test_a_learned_table_is_joined_and_cut():
    table = torch.randn(11, 86)
    codes = position_codes(3, 9, 256, "learned", pe=table).codes
    torch.testing.assert_close(codes[2, 7, 1], torch.cat([table[2], table[7], table[1]])[:256])
    short = position_codes(3, 9, 256, "learned", pe=table[:5]).codes
    assert not short[0, 6, 0, 86:172].any()  # zero rows lie below
    torch.testing.assert_close(short[0, 4, 0, 86:172], table[4])


def test_a_table_is_read_from_a_file(tmp_path):
    np.save(tmp_path / "pe.npy", value("pe", (14, 86)))
    one = position_codes(6, 14, 256, "learned", pe=str(tmp_path / "pe.npy"))
    other = position_codes(6, 14, 256, "learned", pe=value("pe", (14, 86)))
    assert torch.equal(one.codes, other.codes)


@pytest.mark.parametrize("sigma", [2.0, 2.5])
def test_the_fitted_table_has_the_published_cosines(sigma):
    table = fitted_table(14, 86, sigma)
    torch.testing.assert_close(table.norm(dim=1), torch.full((14,), 8.764))
    place = torch.arange(14.0)
    want = torch.exp(-((place[:, None] - place) ** 2) / (2 * sigma**2))
    cosine = F.cosine_similarity(table[:, None], table[None], dim=-1)
    torch.testing.assert_close(cosine, want, atol=1e-5, rtol=0)
    if sigma == 2:  # measured on the released table
        published = torch.tensor([0.8825, 0.6066, 0.3247, 0.1354])
        torch.testing.assert_close(cosine[0, 1:5], published, atol=2e-4, rtol=0)


def test_the_default_learned_codes_fall_with_distance():
    near = load("oat_amazon", weights=None, **TINY).positions.cosines(3, 7, (6, 14))
    assert near.argmax() == 3 * 14 + 7
    assert (near[3, 7:].diff() < 0).all()


TINY = {"emb_size": 48, "num_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1}


def test_the_update_sharpens_cosines_to_the_middle():
    plain, sharp = (
        position_codes(3, 9, 256, f).cosines(1, 4, (3, 9)) for f in ("original", "original_update")
    )
    torch.testing.assert_close(sharp, plain**15, atol=1e-5, rtol=1e-4)
    lengths = [
        position_codes(3, 9, 256, f).codes.norm(dim=-1) for f in ("original", "original_update")
    ]
    torch.testing.assert_close(*lengths)


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_a_pyramid_is_the_largest_of_each_cell(levels):
    x = torch.randn(2, 3, 7, 5)
    want = []
    for side in (2**i for i in range(levels)):
        cell = [-(-7 // side), -(-5 // side)]
        top, left = ((cell[0] * side - 7) // 2, (cell[1] * side - 5) // 2)
        padded = torch.zeros(2, 3, cell[0] * side, cell[1] * side)
        padded[:, :, top : top + 7, left : left + 5] = x
        cells = padded.unflatten(3, (side, cell[1])).unflatten(2, (side, cell[0]))
        want.append(cells.amax((3, 5)).flatten(1))
    assert torch.equal(pyramid(x, levels), torch.cat(want, 1))


@pytest.mark.parametrize(("spp", "width"), [(0, 1440), (2, 160), (3, 672), (4, 2720)])
def test_pyramids_have_the_published_widths(spp, width):
    assert load("oat_yogurt", weights=None, spp=spp, **TINY).cnn_embedding.fc.in_features == width


def test_a_pyramid_takes_objects_of_any_size():
    model = small(spp=2, patch=(40, 40))
    shelf, target, sequence = trial()
    assert model(shelf, target, sequence).shape == (2, 5, 8)


def test_columns_are_objects_end_and_padding():
    model = small(ca_head=3)
    nn.init.constant_(model.readout.bias, 0.3)
    out = model(*trial())
    torch.testing.assert_close(out[..., -1], torch.full((2, 5), 0.3))
    one = small(ca_head=1)
    assert not any(name.startswith("readout") for name in one.state_dict())
    with ll.Probe(one) as probe:
        probe.watch("cross_attentions.0:scores")
        scores = probe(*trial())
        assert torch.equal(probe.trace["cross_attentions.0:scores"].act, scores)
    assert not scores[..., -1].any()


def test_without_attention_to_objects_a_linear_map_reads_the_decoder():
    model = small(ca_version=0)
    found = ll.trace(model, trial(), sites=["transformer_decoder"])
    want = model.generator(found["transformer_decoder"].act)
    torch.testing.assert_close(found.output, want)
    assert not any(name.startswith(("readout", "cross")) for name in model.state_dict())


def test_the_layers_are_those_of_torch():
    model, (shelf, target, sequence) = small(), trial()
    found = ll.trace(model, trial(), sites=["transformer_encoder.layers.*"])
    own = nn.TransformerEncoderLayer(48, 3, 40, batch_first=True).eval()
    own.load_state_dict(model.transformer_encoder.layers[1].state_dict())
    first, second = found.values()
    torch.testing.assert_close(own(first.act), second.act, rtol=1e-4, atol=1e-5)
    other = nn.TransformerDecoderLayer(48, 3, 40, batch_first=True).eval()
    layer = model.transformer_decoder.layers[0]
    other.load_state_dict(layer.state_dict())
    x, memory = torch.randn(2, 5, 48), torch.randn(2, 7, 48)
    padded = sequence == model.grid.padding
    future = torch.ones(5, 5, dtype=torch.bool).triu(1)
    want = other(x, memory, tgt_mask=future, tgt_key_padding_mask=padded)
    torch.testing.assert_close(layer(x, memory, ~padded), want, rtol=1e-4, atol=1e-5)
    layer.train()
    dropless = small(dropout=0.0).train().transformer_decoder.layers[0]
    dropless.load_state_dict(layer.state_dict())
    torch.testing.assert_close(dropless(x, memory, ~padded), want, rtol=1e-4, atol=1e-5)
    assert shelf.shape[0] == len(target)


def test_dropout_reaches_the_attention():
    layer = small(dropout=0.9).train().transformer_decoder.layers[0].self_attn
    x = torch.randn(2, 5, 48)
    keep = torch.ones(2, 5, dtype=torch.bool)
    assert not torch.equal(layer(x, keep=keep), layer(x, keep=keep))
    layer.eval()
    first = layer(x, keep=keep)[:, :2]
    torch.testing.assert_close(first, layer(x[:, :2], keep=keep[:, :2]))  # nobody sees ahead


def test_later_fixations_and_padding_change_nothing_before():
    model, (shelf, target, sequence) = small(), trial()
    other = sequence.clone()
    other[0, 3:], other[1, 3:] = 0, 3
    before, after = model(shelf, target, sequence), model(shelf, target, other)
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3], after[:, 3])


def test_marks_have_an_empty_picture():
    model, (shelf, target, sequence) = small(), trial()
    assert not torch.allclose(
        model(shelf, target, sequence), model(shelf, target, sequence, blank=0.0)
    )
    moved = shelf.clone()
    moved[:, 3] = torch.rand(2, 32, 29, 3)  # neither target nor fixated
    site = [":fixations", ":target", ":objects"]
    one, two = (ll.trace(model, (s, target, sequence), sites=site) for s in (shelf, moved))
    assert torch.equal(one[":fixations"].act, two[":fixations"].act)
    assert torch.equal(one[":target"].act, two[":target"].act)
    same = (one[":objects"].act == two[":objects"].act).flatten(1, 2).all(-1)
    assert same.tolist() == [[True, True, True, False, True, True]] * 2


def test_scanpaths_become_ids_and_back():
    model = small()
    paths = [[2, 2, 5, 4], [1]]
    ids = model.tokens(paths)
    assert ids.tolist() == [[8, 2, 2, 5, 4, 6], [8, 1, 6, 7, 7, 7]]
    assert model.paths(ids) == paths


@pytest.mark.parametrize("name", SHELVES)
def test_shelves_are_those_of_the_metrics(name):
    grid = load(f"oat_{name}", weights=None, **TINY).grid
    assert (grid.rows, grid.columns) == (SHELVES[name].rows, SHELVES[name].columns)


def test_chances_leave_out_padding_and_an_end_before_the_first_fixation():
    model = small()
    scores = torch.randn(2, 4, 8)
    found = model.chances(scores)
    torch.testing.assert_close(found[:, 1:], scores[:, 1:, :7].softmax(-1))
    torch.testing.assert_close(found[:, 0, :6], scores[:, 0, :6].softmax(-1))
    assert not found[:, 0, 6].any()


def test_the_loss_counts_all_but_padding():
    model = small()
    sequence = torch.tensor([[8, 2, 6, 7], [8, 1, 3, 6]])
    scores = torch.randn(2, 3, 8)
    rows = [(0, 0, 2), (0, 1, 6), (1, 0, 1), (1, 1, 3), (1, 2, 6)]
    want = -torch.stack([scores[b, n].log_softmax(-1)[k] for b, n, k in rows]).mean()
    torch.testing.assert_close(model.loss(scores, sequence), want)


def test_the_likeliest_scanpath_is_its_own_prediction():
    model, (shelf, target, _) = small(), trial()
    ids = model.generate(shelf, target, steps=6, blank=1.0)
    assert ids[:, 0].tolist() == [8, 8]
    chances = model.chances(model(shelf, target, ids[:, :-1]))
    for row, made in zip(ids[:, 1:], chances, strict=True):
        over = False
        for step, following in enumerate(row.tolist()):
            assert following == (7 if over else int(made[step].argmax()))
            over |= following == 6
    alone = model.generate(shelf[1:], target[1:], steps=6, blank=1.0)
    assert model.paths(alone) == model.paths(ids[1:])


def test_generation_stops_at_the_end():
    model, (shelf, target, _) = small(ca_version=0), trial()
    nn.init.zeros_(model.generator.weight)
    with torch.no_grad():
        model.generator.bias.copy_(torch.tensor([0.0, 0, 2, 0, 0, 0, 5, 9]))
    ids = model.generate(shelf, target, steps=9)
    assert ids.tolist() == [[8, 2, 6]] * 2  # padding, the likeliest, is never chosen


def test_samples_follow_their_chances():
    model, (shelf, target, _) = small(ca_version=0), trial()
    nn.init.zeros_(model.generator.weight)
    with torch.no_grad():
        model.generator.bias.copy_(torch.tensor([0.0, 0, 1, -20, -20, -20, 1, 9]))
    draw = torch.Generator().manual_seed(3)
    ids = model.generate(shelf, target, steps=2, samples=1000, generator=draw)
    assert ids.shape == (2, 1000, 3)
    share = torch.stack([(ids[0, :, 1] == k).float().mean() for k in range(3)])
    torch.testing.assert_close(share, torch.tensor([0.0, 0, 1]).softmax(0), atol=0.05, rtol=0)
    ended = (ids[:, :, 2] == 6).float().mean()
    assert ended.item() == pytest.approx(
        float(torch.tensor([0.0, 0, 1, 1]).softmax(0)[3]), abs=0.05
    )
    again = torch.Generator().manual_seed(3)
    assert torch.equal(ids, model.generate(shelf, target, steps=2, samples=1000, generator=again))


def test_relevance_of_the_tokens_is_the_score():
    model, x = small(), trial()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.zero_()
    asked = [ll.choice(2, [3, 0]), ll.choice(-1, 5)]
    sites = [":objects", ":target", ":fixations"]
    found = ll.maps(model, x, "lrp:epsilon", sites=sites, target=asked)
    assert {str(m.site): m.axes for m in found} == dict(zip(sites, ("y x", "n", "n"), strict=True))
    for target in asked:
        scores = target(model(*x), 2).detach()
        for sample, score in zip(("0", "1"), scores, strict=True):
            parts = [m for m in found if m.target == target.name and m.sample == sample]
            assert len(parts) == 3
            total = sum(m.values.sum() for m in parts)
            torch.testing.assert_close(total, score, rtol=1e-3, atol=1e-4)


def test_a_checkpoint_of_lightning_loads(tmp_path):
    model = small()
    state = {f"model.{name}": x for name, x in model.state_dict().items()}
    torch.save(state, tmp_path / "a.pt")
    again = load("oat_wine", weights=tmp_path / "a.pt", **SMALL)
    assert all(torch.equal(x, again.state_dict()[n]) for n, x in model.state_dict().items())
    load("oat_wine", weights=tmp_path / "a.pt", **SMALL, ca_version=0)  # leaves its read-out
    with pytest.raises(ll.LimelightError, match=r"do not fit OAT: .*of another shape"):
        load("oat_wine", weights=tmp_path / "a.pt", **{**SMALL, "cols": 4})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"layout": "amazn"}, "layout='amazn' is no shelf .*did you mean 'amazon'"),
        ({"layout": "wine"}, "layout='wine' has 2 x 11 objects, but .*rows=2 and cols=3"),
        ({"rows": 0}, "rows=0 and cols=3 has no objects"),
        ({"objects": 7}, "objects=7 was given, but a shelf of 2 x 3 objects makes it 6"),
        ({"EOS": 7}, "EOS=7 was given, .* makes it 6"),
        ({"tgt_vocab_size": 9}, "tgt_vocab_size=9 was given, .* makes it 8"),
        ({"emb_size": 50}, "emb_size=50 must be even, .*num_heads=3"),
        ({"dropout": 1.0}, "dropout=1.0 is no share"),
        ({"CAVersion": 1}, "ca_version=1 is not described: give 3"),
        ({"CA_head": 0}, "ca_head=0 leaves no read-out"),
        ({"spp": 1}, "spp=1 is no pyramid"),
        ({"patch": (28, 40)}, "picture of 28 x 40 is too small .*sides of 29 and more"),
        ({"patch": (18, 40), "spp": 2}, "18 x 40 is too small .*sides of 19 and more"),
        ({"functionChoice": "orginal"}, "'orginal' is no position code .*did you mean 'original'"),
        ({"functionChoice": "exp1", "changeX": "yes"}, "change_x='yes' is unknown"),
        ({"changeX": "True"}, "learned codes have none"),
        ({"functionChoice": "exp1", "pe": torch.zeros(14, 8)}, "computes them: leave one out"),
        ({"pe": torch.zeros(14, 7)}, r"pe= has shape \(14, 7\), but .*of 8 numbers"),
    ],
)
def test_what_builds_no_model_is_said(wrong, words):
    with pytest.raises(OptionError, match=words):
        small(**wrong)


def test_a_layout_of_ones_own_is_a_name():
    assert small(layout="my shelf").grid == small().grid


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s, t, q: (s[:, :5], t, q), "is for 2 x 3 objects: give b 6 y x channels"),
        (lambda s, t, q: (s[..., :1], t, q), "32 x 29 x 1 were given, .*must be 3 channels"),
        (lambda s, t, q: (s[:, :, :31], t, q), "31 x 29 were given, .*for 32 x 29: give those"),
        (lambda s, t, q: (s, t[:1], q), r"targets of shape \(1,\) .*do not belong to 2 shelves"),
        (lambda s, t, q: (s, t + 5, q), "target 9 was given, but .*has objects 0 to 5"),
        (lambda s, t, q: (s, t, q[:1]), "does not belong to 2 shelves"),
        (lambda s, t, q: (s, t, q.float()), "type torch.float32 does not belong"),
        (lambda s, t, q: (s, t, q + 1), "id 9 was given, but .*has objects and marks 0 to 8"),
        (lambda s, t, q: (s, t, q[:, 1:]), "begins with the id 8 and has it nowhere else"),
        (lambda s, t, q: (s, t, q[:, :0]), "of 0 ids was given, but the model knows 1 to 5000"),
        (lambda s, t, q: (s, t, q[:, :1].expand(2, 5001)), "5001 ids was given"),
    ],
)
def test_inputs_that_do_not_fit_are_said(change, words):
    with pytest.raises(ModelError, match=words):
        small()(*change(*trial()))


def test_small_pictures_are_said_to_a_pyramid():
    shelf, target, sequence = trial()
    with pytest.raises(OptionError, match="picture of 18 x 29 is too small"):
        small(spp=2)(shelf[:, :, :18], target, sequence)


def test_a_step_beyond_the_end_is_said():
    model, x = small(), trial()
    with pytest.raises(TargetError, match="position=5 needs an output b n c with that position"):
        ll.maps(model, x, "gradient", target=ll.choice(5, 0))
    for wrong in ({"steps": 0}, {"steps": 5001}, {"steps": 3, "samples": 0}):
        with pytest.raises(OptionError, match="was asked of generate: give 1 to 5000 steps"):
            model.generate(*x[:2], **wrong)
    with pytest.raises(OptionError, match="scanpath holds object 6, but a shelf of 2 x 3 has 0"):
        model.tokens([[1, 6]])

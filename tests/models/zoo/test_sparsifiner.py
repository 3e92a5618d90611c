"""Sparsifiner: sparsities of the golden case, its switches, pruning, phases, and bad input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from golden_models import build
from torch import Tensor

import limelight as ll
from limelight.models.zoo.sparsifiner.training import distillation_loss, reconstruction_loss
from limelight.probe.errors import ModelError, OptionError

SMALL = {"img_size": 64, "depth": 4, "embed_dim": 48, "num_heads": 3, "reduce_n_factor": 2,
         "num_classes": 7}  # fmt: skip
PRUNED = {"token_pruning_layers": (1, 2), "token_keep_rate_list": (1, 0.7, 0.3, 0.3)}


def small(seed: int = 0, **hyper: object):
    """A model whose predictors and norms are not near zero."""
    torch.manual_seed(seed)
    model = ll.load("sparsifiner_small", weights=None, **{**SMALL, **hyper})
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def written_out(model, x: Tensor) -> Tensor:
    """The sheet's forward on a loop over layers, for the published switches and those below."""
    tokens = model.patch_embed(x)
    tokens = torch.cat([model.cls_token.expand(len(x), -1, -1), tokens], 1) + model.pos_embed
    b, n = tokens.shape[:2]
    kept = torch.ones(b, n, dtype=torch.bool)
    for block in model.blocks:
        attn, p = block.attn, block.attn.mask_predictor
        q, k, v = attn.qkv(block.norm1(tokens)).reshape(b, n, 3, 3, 16).permute(2, 0, 3, 1, 4)
        q, k, v = (y * kept[:, None, :, None] for y in (q, k, v))
        low = (layer(y) * kept[:, None, :, None] for layer, y in ((p.proj_c_q, q), (p.proj_c_k, k)))
        low_q, low_k = low
        share = (low_q @ low_k.mT.matmul(p.proj_n) * 3**-0.5)[:, :, 1:].softmax(-1)
        if p.sparsity.coefficients is None:
            share = torch.where(share > p.sparsity.coefficients_above, share, 0.0)
        else:
            cut = share.sort(-1).values[..., -p.sparsity.coefficients, None]
            share = torch.where(share >= cut, share, 0.0)
        basis = p.proj_back_n.abs().T
        estimate = share @ torch.where(basis > p.sparsity.basis, basis, 0.0)
        estimate = estimate.masked_fill(~kept[:, None, None], -torch.inf)
        if p.sparsity.scores:
            budget = min(p.budget, int(kept[0, 1:].sum())) if not kept.all() else p.budget
            seen = estimate >= estimate.sort(-1).values[..., -budget, None]
        else:
            seen = estimate > p.sparsity.scores_above
        seen = torch.cat([torch.ones(b, 3, 1, n, dtype=torch.bool), seen], 2)
        scores = (q @ k.mT / 4).masked_fill(~seen, -torch.inf)
        share = scores.softmax(-1).nan_to_num(0.0)
        tokens = tokens + attn.proj((share @ v).transpose(1, 2).flatten(2))
        if attn.keep is not None:
            rank = share[:, :, 0, 1:].mean(1).masked_fill(~kept[:, 1:], -1.0)
            cut = rank.sort(-1).values[:, -attn.keep, None]
            kept = torch.cat([kept[:, :1], rank >= cut], 1)
        tokens = tokens + block.mlp(block.norm2(tokens))
        tokens = tokens * kept[..., None]
    return model.head(model.norm(tokens)[:, 0])


SWITCHES = {
    "published": {},
    "shared": {"share_inout_proj": True, "reduce_c_factor": 4},
    "thresholds": {
        "basis_coef_use_topk": False, "basis_coef_threshold": 0.1,
        "attn_score_use_topk": False, "attn_score_threshold": 0.2,
    },
    "rates": {"attn_keep_rate_list": (0.1, 1.0, 0.5, 0.25), "basis_coef_topk": 2},
    "pruned": PRUNED,
    "pruned below the budget": {
        "attn_keep_rate_list": 0.9, "token_pruning_layers": (0,), "token_keep_rate_list": 0.3,
    },
    "pruned, thresholds": {**PRUNED, "attn_score_use_topk": False, "attn_score_threshold": 0.2},
}  # fmt: skip


@pytest.mark.parametrize("name", SWITCHES)
def test_the_sheet(name, x):
    model = small(**SWITCHES[name])
    with torch.no_grad():
        torch.testing.assert_close(model(x), written_out(model, x), rtol=1e-4, atol=1e-5)
        rows = small(**SWITCHES[name], prune_attn_matrix_row=True)
        torch.testing.assert_close(rows(x), model(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model(x), model(x), rtol=0, atol=0)


@pytest.mark.golden
@pytest.mark.parametrize("name", ["sparsifiner.small", "sparsifiner.small112"])
def test_the_sparsities_of_the_golden_case(name):
    built = build(name)
    sites = [f"blocks.*.attn{port}" for port in
             (":mask", ".mask_predictor:basis", ".mask_predictor:coefficients")]  # fmt: skip
    trace = ll.trace(built.model, built.x, sites)
    for site, key in zip(sites, ("attn_mask", "basis", "basis_coef"), strict=True):
        zeros = [float((value.act == 0).double().mean()) for value in trace.where(site).values()]
        assert len(zeros) == 12
        want = built.case.case[f"{key}_sparsity"]
        assert sum(zeros) / 12 == pytest.approx(want, abs=2e-7)  # which is a mean in float32


def test_pruned_tokens_are_zeros_that_nobody_sees(x):
    model = small(**PRUNED, prune_attn_matrix_row=True)
    trace = ll.trace(model, x, ["blocks.*", "blocks.*.attn:kept", "blocks.*.attn:mask"])
    first, second = (trace[f"blocks.{n}.attn:kept"].act for n in (1, 2))
    assert first.sum(1).tolist() == [13, 13]  # ceil(0.7 16) and the class token
    assert second.sum(1).tolist() == [6, 6]
    assert not (second & ~first).any()
    for layer, kept in ((1, first), (2, second), (3, second)):
        out = trace[f"blocks.{layer}"].act
        assert not out[~kept].any()
        assert out[kept].any(-1).all()
    mask = trace["blocks.3.attn:mask"].act
    gone = ~second[:, None, None].expand(mask.shape)
    assert mask[:, :, 0].all()
    assert not mask[:, :, 1:][gone[:, :, 1:]].any()
    assert not mask.mT[:, :, :, 1:][gone[:, :, :, 1:]].any()  # their rows are cleared
    parts = model.parts(x)
    assert torch.equal(parts.kept, second)
    base = ll.load("sparsifiner_small", None, token_keep_rate_base=0.7, depth=8,
                   token_pruning_layers=range(8), **{k: SMALL[k] for k in ("img_size",)},
                   reduce_n_factor=2)  # fmt: skip
    keep = [block.attn.keep for block in base.blocks]
    assert keep == [16, 16, 12, 12, 8, 8, 6, 6]


def test_the_phases(x):
    model = small(**PRUNED, use_attn_recon=True).train()
    parts = model.parts(x)
    assert parts.kept is None
    first = model.blocks[0].attn
    tokens = model.patch_embed(x)
    tokens = torch.cat([model.cls_token.expand(2, -1, -1), tokens], 1) + model.pos_embed
    qkv = first.qkv(model.blocks[0].norm1(tokens)).reshape(2, 17, 3, 3, 16)
    q, k, _ = qkv.permute(2, 0, 3, 1, 4)
    p = first.mask_predictor
    logits = p.proj_c_q(q) @ (p.proj_c_k(k).mT @ p.proj_n) * 3**-0.5
    want = logits[:, :, 1:].softmax(-1) @ p.proj_back_n.T
    torch.testing.assert_close(parts.estimates[0], want)
    assert (want < 0).any()  # the basis keeps its signs
    maps = [torch.full((2, 3, 17, 17), 1 / 17) for _ in model.blocks]
    loss = reconstruction_loss(parts.estimates, maps)
    own = sum(((e - 1 / 17) ** 2).sum() for e in parts.estimates) / 4
    torch.testing.assert_close(loss, 0.01 * own)
    loss.backward()
    assert all(b.attn.mask_predictor.proj_n.grad.any() for b in model.blocks)
    whole = small(attn_keep_rate_list=1.0).train()
    torch.testing.assert_close(parts.logits, whole(x), rtol=1e-4, atol=1e-5)  # nothing is masked
    model.phase("cls_distill")
    model.zero_grad()
    parts = model.parts(x)
    assert parts.kept.sum(1).tolist() == [6, 6]
    labels, logits, features = torch.tensor([1, 3]), torch.randn(2, 7), torch.randn(2, 16, 48)
    loss = distillation_loss(parts, labels, logits, features)
    student, teacher = parts.logits.log_softmax(-1), logits.log_softmax(-1)
    left = parts.kept[:, 1:, None].float()
    want = -(student[0, 1] + student[1, 3]) / 2
    want = want + 0.5 * (teacher.exp() * (teacher - student)).sum() / 2
    want = want + 0.5 * ((parts.features - features).square() * left).sum() / (left.sum() * 48)
    torch.testing.assert_close(loss, want)
    loss.backward()
    assert model.blocks[0].attn.qkv.weight.grad.any()
    assert model.blocks[0].attn.mask_predictor.proj_n.grad is None  # a mask has no gradient
    with pytest.raises(OptionError, match="no training phase 'joint'"):
        model.phase("joint")
    with pytest.raises(ModelError, match="same depth, heads and tokens"):
        reconstruction_loss(parts.estimates, maps[1:])


def test_a_predictor_learns_what_its_teacher_sees(x):
    """Forty steps of the first phase: the mask keeps more of the softmax than chance."""
    model = small(depth=2, use_attn_recon=True)
    before = float(ll.maps(model, x, "mask_recall").stack().mean())
    own = [p for n, p in model.named_parameters() if "mask_predictor" in n]
    teacher = small(depth=2, attn_keep_rate_list=1.0)  # the same weights, nothing masked
    maps = [value.act for value in ll.trace(teacher, x, "blocks.*.attn:map").values()]
    model.train()
    for _ in range(40):
        grads = torch.autograd.grad(reconstruction_loss(model.parts(x).estimates, maps), own)
        with torch.no_grad():
            for p, grad in zip(own, grads, strict=True):
                p.sub_(1e-2 * grad.sign())
    model.eval()
    after = float(ll.maps(model, x, "mask_recall").stack().mean())
    assert after > before + 0.1


def test_lv_vit(x):
    torch.manual_seed(0)
    whole = ll.load("sparsifiner_lvvit_s", weights=None)
    names = dict(whole.named_parameters())
    assert len(whole.blocks) == 16
    assert names["patch_embed.conv1.weight"].shape == (64, 3, 7, 7)
    assert names["patch_embed.proj.weight"].shape == (384, 64, 8, 8)
    assert names["blocks.0.mlp.fc1.weight"].shape == (1152, 384)
    assert "blocks.0.attn.qkv.bias" not in names
    own = sum(p.numel() for n, p in names.items() if "mask_predictor" not in n)
    assert own == 16 * 1_478_016 + 1_656_768 + 384 + 75_648 + 768 + 770_000  # LV-ViT-S: "26M"
    hyper = {**SMALL, "skip_lam": 2.0, "return_dense": True, "p_emb": "4_2"}
    model = ll.load("sparsifiner_small", weights=None, **hyper)
    with torch.no_grad():
        parts, block = model.parts(x), model.blocks[0]
        torch.testing.assert_close(model(x), parts.logits + 0.5 * parts.features.amax(1))
        assert parts.features.shape == (2, 16, 7)
        tokens = torch.randn(2, 17, 48)
        mixed = tokens + block.attn(block.norm1(tokens))[0] / 2
        want = mixed + block.mlp(block.norm2(mixed)) / 2
        torch.testing.assert_close(block(tokens)[0], want)
    with pytest.raises(OptionError, match="keeps mix_token=True"):
        ll.load("sparsifiner_lvvit_s", weights=None, mix_token=False)


def test_a_deit_starts_it_and_files_come_back(tmp_path, x):
    deit = ll.load("deit_small", weights=None, img_size=64, depth=4, embed_dim=48, num_heads=3,
                   num_classes=7)  # fmt: skip
    torch.save({"model": deit.state_dict()}, tmp_path / "deit.pth")
    torch.save(deit.state_dict(), tmp_path / "flat.pth")
    with pytest.warns(UserWarning, match="holds no mask predictors"):
        model = ll.load("sparsifiner_small", tmp_path / "flat.pth", attn_keep_rate_list=1, **SMALL)
    with torch.no_grad():
        torch.testing.assert_close(model(x), deit(x), rtol=1e-4, atol=1e-5)
    assert all(block.attn.mask_predictor.proj_n.any() for block in model.blocks)
    torch.save(model.state_dict(), tmp_path / "own.pth")
    again = ll.load("sparsifiner_small", tmp_path / "own.pth", attn_keep_rate_list=1, **SMALL)
    assert torch.equal(again(x), model(x))
    with pytest.raises(ll.LimelightError, match="of another shape"):
        ll.load("sparsifiner_small", tmp_path / "own.pth", **{**SMALL, "img_size": 96})


@pytest.mark.parametrize(
    ("hyper", "message"),
    [
        ({"attn_keep_rate_list": 0.0}, "holds 0.0, but a share"),
        ({"attn_keep_rate_list": (0.5, 0.5, 1.5, 0.5)}, "holds 1.5, but a share"),
        ({"token_keep_rate_list": (1, 1, -0.5, 1)}, "token_keep_rate_list holds -0.5"),
        ({"attn_keep_rate_list": (0.5, 0.5)}, "has 2 rates for 4 layers"),
        ({"token_pruning_layers": (4,)}, "no layers of 4"),
        ({"token_pruning_layers": (1, 2), "token_keep_rate_list": (1, 0.3, 0.7, 1)}, "not grow"),
        ({"basis_coef_topk": 9}, "basis_coef_topk=9 coefficients were to be kept of 8"),
        ({"reduce_n_factor": 20}, "predicts nothing"),
        ({"num_heads": 5}, "does not divide into 5 heads"),
        ({"img_size": 60}, "does not divide into patches"),
        ({"p_emb": "4_3"}, "no stem p_emb='4_3'"),
    ],
)
def test_options_that_cannot_be(hyper, message):
    with pytest.raises(OptionError, match=message):
        ll.load("sparsifiner_small", weights=None, **{**SMALL, **hyper})


def test_other_pictures_and_channels():
    model = ll.load("sparsifiner_small", weights=None, in_channels=5, **SMALL)
    assert model(torch.randn(1, 5, 64, 64)).shape == (1, 7)
    with pytest.raises(ModelError, match="the mask predictors are those of 4 x 4: give 64 x 64"):
        model(torch.randn(1, 5, 64, 96))
    wide = ll.load(
        "sparsifiner_small", weights=None, **{**SMALL, "img_size": (32, 96)}, basis_coef_topk=6
    )
    assert wide(torch.randn(1, 3, 32, 96)).shape == (1, 7)


def test_capitals_and_single_rates_are_read():
    model = ll.load("sparsifiner_small", weights=None, **{**SMALL, "reduce_n_factor": 6},
                    BASIS_COEF_USE_TOPK=False, ATTN_KEEP_RATE=0.5, TOKEN_PRUNING_LOC=[2],
                    TOKEN_KEEP_RATE_BASE=0.5, REDUCE_C_FACTOR=4, USE_ATTN_RECON=True)  # fmt: skip
    predictor = model.blocks[0].attn.mask_predictor
    assert predictor.budget == 9
    assert predictor.sparsity.coefficients is None
    assert predictor.proj_c_q.weight.shape == (4, 16)
    assert [block.attn.keep for block in model.blocks] == [None, None, 4, None]
    assert model.blocks[0].attn.reconstruct


def test_checkpointing_changes_no_gradient(x):
    model = small(**PRUNED).train()
    found = []
    for enable in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        model(x).sum().backward()
        found.append(model.blocks[0].attn.qkv.weight.grad.clone())
    torch.testing.assert_close(*found)
    assert F.cosine_similarity(found[0].flatten(), found[1].flatten(), 0) > 0.999


@pytest.mark.parametrize("hyper", [{}, PRUNED], ids=["published", "pruned"])
def test_relevance_of_a_class_all_arrives_at_the_picture(hyper, x):
    """Without biases, positions and a class token that begins as something."""
    model = small(**hyper)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias") or name in ("pos_embed", "cls_token"):
                p.zero_()
    books = ll.ledger(model, x[:1], "lrp:epsilon", target=ll.label(3))
    assert books.kept == pytest.approx(1.0, abs=1e-4)

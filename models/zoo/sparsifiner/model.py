"""Sparsifiner (arXiv 2303.13755): DeiT and LV-ViT with instance-dependent sparse attention."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ....probe.errors import OptionError
from ...card import Card, Figure, Source, State
from ...layers import (
    Checkpointing,
    GridSize,
    Mlp,
    check_grid,
    drop_rates,
    fit_positions,
    grid_of,
    init_weights,
)
from ...registry import Variant, register
from .blocks import SparseAttention, SparseBlock
from .options import check_options, keep_rates
from .predictor import MaskPredictor, Sparsity
from .stem import stem


class Parts(NamedTuple):
    """What training compares with a teacher.

    logits     of the class token, without those of patches
    features   patch tokens behind the last norm, `b n-1 c`; of LV-ViT their logits
    estimates  of every layer's attention, `b h n-1 n`
    kept       the tokens that are left at the end, `b n`; None where none was pruned
    """

    logits: Tensor
    features: Tensor
    estimates: list[Tensor]
    kept: Tensor | None


class Sparsifiner(Checkpointing, nn.Module):
    """Patches and a class token through blocks of sparse attention; the token count is fixed."""

    def __init__(
        self,
        blocks: list[SparseBlock],
        patch_embed: nn.Module,
        *,
        grid: GridSize,
        patch_size: int,
        dim: int,
        num_classes: int,
        return_dense: bool,
        drop: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.patch_size, self.grid = patch_size, grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid[0] * grid[1], dim))
        self.patch_embed = patch_embed
        self.pos_drop = nn.Dropout(drop)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim, eps)
        self.head = nn.Linear(dim, num_classes)
        self.aux_head = nn.Linear(dim, num_classes) if return_dense else None
        init_weights(self, nn.Linear)
        for table in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(table, std=0.02)

    def phase(self, name: str) -> None:
        """Train the predictor, "attn_recon", or all of the model behind its masks, "cls_distill".

        While predictors learn to reconstruct attention, nothing is masked in training and no
        token is pruned. Raises OptionError for another name.
        """
        if name not in ("attn_recon", "cls_distill"):
            raise OptionError(
                f"there is no training phase {name!r}: write 'attn_recon' or 'cls_distill'"
            )
        for block in self.blocks:
            block.attn.reconstruct = name == "attn_recon"  # type: ignore[union-attr]

    def convert_state(self, state: State) -> State:
        """Resize a file's positions; a file without predictors, a DeiT's, leaves them random."""
        fit_positions(state, "pos_embed", self.grid, prefix=1)
        if any(".mask_predictor." in name for name in state):
            return state
        for part in self.modules():
            if isinstance(part, MaskPredictor):
                part.reset_parameters()
        own = {name: x for name, x in self.state_dict().items() if ".mask_predictor." in name}
        warnings.warn(
            "the file holds no mask predictors: those of the model start with random weights, so "
            "that its masks mean nothing until they are trained",
            stacklevel=4,
        )
        return {**state, **own}

    def forward(self, x: Tensor) -> Tensor:
        parts = self.parts(x)
        if self.aux_head is None or self.training:
            return parts.logits
        return parts.logits + 0.5 * parts.features.amax(1)

    def parts(self, x: Tensor) -> Parts:
        """Logits and what else training compares. Raises ModelError for another size of picture."""
        check_grid(x, self.patch_size, self.grid, "the mask predictors")
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        x = self.pos_drop(x + self.pos_embed)
        kept, estimates = None, []
        for block in self.blocks:
            x, kept, estimate = self.through(block, x, kept)
            estimates.append(estimate)
        x = self.norm(x)
        patches = x[:, 1:] if self.aux_head is None else self.aux_head(x[:, 1:])
        return Parts(self.head(x[:, 0]), patches, estimates, kept)


def sparsifiner(
    *,
    img_size: int | tuple[int, int] = 224,
    patch_size: int = 16,
    in_channels: int = 3,
    embed_dim: int = 384,
    depth: int = 12,
    num_heads: int = 6,
    mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
    reduce_n_factor: float = 6,
    reduce_c_factor: int = 2,
    share_inout_proj: bool = False,
    attn_keep_rate_list: float | Sequence[float] = 0.25,
    token_keep_rate_list: float | Sequence[float] | None = None,
    token_keep_rate_base: float = 1.0,
    token_pruning_layers: Sequence[int] = (),
    basis_threshold: float = 0.02,
    basis_coef_use_topk: bool = True,
    basis_coef_topk: int = 8,
    basis_coef_threshold: float = 0.05,
    attn_score_use_topk: bool = True,
    attn_score_threshold: float = 1e-4,
    prune_attn_matrix_row: bool = False,
    use_attn_recon: bool = False,
    p_emb: str = "naive",
    skip_lam: float = 1.0,
    return_dense: bool = False,
    num_classes: int = 1000,
    norm_eps: float = 1e-6,
    dropout: float = 0.0,
    drop_path: float = 0.0,
) -> Sparsifiner:
    """A Sparsifiner.

    reduce_n_factor        tokens for each map of the basis
    reduce_c_factor        channels of a head for each of the predictor's
    share_inout_proj       the basis is what keys are summed up by
    attn_keep_rate_list    share of keys that a query sees, one for all layers or one each
    token_keep_rate_list   share of all patches that stay behind a layer of token_pruning_layers;
                           left out, powers of token_keep_rate_base: 0 to 3, one more each quarter
                           of the depth
    basis_threshold        entries of the basis that are not larger are 0
    basis_coef_use_topk    a query keeps its basis_coef_topk largest coefficients, else those
                           above basis_coef_threshold
    attn_score_use_topk    a query sees the keys of its largest estimates, else those above
                           attn_score_threshold
    prune_attn_matrix_row  pruned tokens see nothing
    use_attn_recon         starts in the phase that trains predictors; see `Sparsifiner.phase`
    p_emb                  "naive" patches, or LV-ViT's stem: "4_2", with 128 channels "4_2_128"
    skip_lam               what branches are divided by
    return_dense           half the largest logit of patches is added, but not in training
    """
    attn_rates = keep_rates("attn_keep_rate_list", attn_keep_rate_list, depth)
    if token_keep_rate_list is None:
        quarters = [min(4 * layer // depth, 3) for layer in range(depth)]
        token_keep_rate_list = [token_keep_rate_base**power for power in quarters]
    token_rates = keep_rates("token_keep_rate_list", token_keep_rate_list, depth)
    check_options(embed_dim, num_heads, depth, token_pruning_layers, token_rates)
    grid = grid_of(img_size, patch_size)
    tokens = 1 + grid[0] * grid[1]
    sparsity = Sparsity(
        basis_threshold,
        basis_coef_topk if basis_coef_use_topk else None,
        basis_coef_threshold,
        attn_score_use_topk,
        attn_score_threshold,
        prune_attn_matrix_row,
    )

    left = {layer: math.ceil(token_rates[layer] * (tokens - 1)) for layer in token_pruning_layers}

    def block(layer: int, drop: float) -> SparseBlock:
        budget = math.ceil(attn_rates[layer] * tokens)
        there = min((left[before] for before in left if before < layer), default=tokens)
        predictor = MaskPredictor(
            num_heads, embed_dim // num_heads, tokens, budget, min(budget, there),
            reduce_n_factor, reduce_c_factor, share_inout_proj, sparsity,
        )  # fmt: skip
        keep = left.get(layer)
        attn = SparseAttention(embed_dim, qkv_bias, dropout, keep, predictor)
        mlp = Mlp(embed_dim, int(embed_dim * mlp_ratio), drop=dropout)
        return SparseBlock(embed_dim, attn, mlp, norm_eps, drop, skip_lam)

    built = Sparsifiner(
        [block(layer, drop) for layer, drop in enumerate(drop_rates(drop_path, [depth]))],
        stem(p_emb, patch_size, in_channels, embed_dim),
        grid=grid,
        patch_size=patch_size,
        dim=embed_dim,
        num_classes=num_classes,
        return_dense=return_dense,
        drop=dropout,
        eps=norm_eps,
    )
    built.phase("attn_recon" if use_attn_recon else "cls_distill")
    return built


DEIT, DEIT_S = "https://dl.fbaipublicfiles.com/deit/", "deit_small_patch16_224-cd65a155.pth"
LV_VIT = "https://github.com/zihangJiang/TokenLabeling/releases/download/1.0/"
PAPER = "Sparsifiner: learning sparse instance-dependent attention, arXiv 2303.13755"
NONE_PUBLISHED = (
    "no checkpoint is published; 'start' is the {} that training starts from, without predictors"
)
CARD = Card(
    "Sparsifiner",
    PAPER,
    hidden=("blocks.*",),
    heads=("blocks.*.attn",),
    prefix=1,
    classifier="head",
    interpolation="bicubic",
    shows=(
        Figure(
            "Connectivity of the centre",
            "connectivity",
            about="The keys that the predicted mask lets the middle of the picture see, and "
            "its softmax.",
        ),
        Figure(
            "Mask recall",
            "heads",
            methods=("mask_recall", "mask_recall,mask=random", "mask_recall,mask=local"),
            about="The share of the unmasked softmax that the mask keeps, beside random and "
            "local masks of its size.",
        ),
        Figure(
            "The basis",
            "tables",
            sites=("**:basis",),
            about="Rows of keys that connectivity is made of; a column a token, the class "
            "token first.",
        ),
    ),
)
register(
    sparsifiner,
    CARD,
    (
        Variant(
            "sparsifiner_small",
            weights={"start": Source(f"{DEIT}{DEIT_S}", key="model", sha256=DEIT_S[-12:-4])},
            about=NONE_PUBLISHED.format("DeiT-S"),
        ),
    ),
)
register(
    sparsifiner,
    CARD,
    (
        Variant(
            "sparsifiner_lvvit_s",
            build={
                "depth": 16,
                "mlp_ratio": 3.0,
                "qkv_bias": False,
                "p_emb": "4_2",
                "skip_lam": 2.0,
                "return_dense": True,
                "norm_eps": 1e-5,
            },
            weights={"start": Source(f"{LV_VIT}lvvit_s-26M-224-83.3.pth.tar")},
            about=NONE_PUBLISHED.format("LV-ViT-S"),
        ),
    ),
    fixed={"mix_token": True},  # taken by the published code, whose forward mixes no tokens
)

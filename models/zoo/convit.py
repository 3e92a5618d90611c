"""ConViT (arXiv 2103.10697): attention that starts as a convolution, and gates to leave it."""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor, nn

from ...kernels.attention import attention
from ...kernels.kan import Order
from ...probe.errors import OptionError
from ..card import CENTRE, DISTANCE, Card, Figure, Source, State
from ..layers import (
    Attention,
    Block,
    Checkpointing,
    GridSize,
    KanAttention,
    KanOperator,
    KanOptions,
    Mlp,
    PatchEmbed,
    attention_width,
    check_grid,
    drop_rates,
    fit_positions,
    grid_of,
    init_weights,
    resize_positions,
    square_grid,
)
from ..registry import Variant, register


class GPSA(nn.Module):
    """Gated positional self-attention: A = (1 - g) softmax(q k') + g softmax(v . r), per head.

    r = (dx, dy, dx^2 + dy^2) from query to key, g = sigmoid(gating_param). The op's ports `gate`
    and `position` are g and the positional scores.
    """

    def __init__(
        self, dim: int, num_heads: int, qkv_bias: bool, strength: float, drop: float, grid: GridSize
    ) -> None:
        super().__init__()
        self.num_heads, self.grid = num_heads, grid
        self.gating_param = nn.Parameter(torch.ones(num_heads))
        self.qk = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.v = nn.Linear(dim, dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.pos_proj = nn.Linear(3, num_heads)
        self.proj_drop = nn.Dropout(drop)
        self.local_init(strength)

    @torch.no_grad()
    def local_init(self, strength: float) -> None:
        """Values pass unchanged; head (a, b) of a square of heads looks around its own offset."""
        nn.init.eye_(self.v.weight)
        side = isqrt(self.num_heads)
        middle = (side - 1) / 2 if side % 2 == 0 else side // 2
        for row in range(side):
            for column in range(side):
                centre = torch.tensor([2 * (column - middle), 2 * (row - middle), -1.0])
                self.pos_proj.weight[row + side * column] = centre * strength
        nn.init.zeros_(self.pos_proj.bias)

    def forward(self, x: Tensor, offsets: Tensor | None = None) -> Tensor:
        b, n, c = x.shape
        qk = self.qk(x).reshape(b, n, 2, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        v = self.v(x).reshape(b, n, self.num_heads, -1).transpose(1, 2)
        offsets = self.offsets(n, x) if offsets is None else offsets
        position = self.pos_proj(offsets).permute(2, 0, 1)
        out = attention(qk[0], qk[1], v, position=position, gate=self.gating_param.sigmoid())
        return self.proj_drop(self.proj(out.transpose(1, 2).reshape(b, n, c)))

    def offsets(self, tokens: int, like: Tensor) -> Tensor:
        """The offsets where nobody tells the grid: that of the model, or a square."""
        fits = self.grid[0] * self.grid[1] == tokens
        return grid_offsets(self.grid if fits else square_grid(tokens), like)


def grid_offsets(grid: GridSize, like: Tensor) -> Tensor:
    """dx, dy and the squared distance from each query to each key, `n n 3`."""
    y, x = (torch.arange(side, device=like.device, dtype=like.dtype) for side in grid)
    y, x = y.repeat_interleave(len(x)), x.repeat(len(y))
    dy, dx = (t[None, :] - t[:, None] for t in (y, x))
    return torch.stack([dx, dy, dx**2 + dy**2], -1)


class SelfAttention(Attention):
    """Attention over patches and the class token, as an op."""

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        out = attention(q, k, v)
        return self.proj_drop(self.proj(out.transpose(1, 2).reshape(b, n, c)))


class ConViT(Checkpointing, nn.Module):
    """GPSA blocks on patches alone; then the class token joins, and ordinary blocks follow.

    karat   the learned functions that the last blocks share, if they do
    learned   how many of the last blocks have learned maps, which fix the input size
    """

    def __init__(
        self,
        blocks: list[Block],
        karat: KanOperator | None = None,
        *,
        learned: int = 0,
        grid: GridSize,
        patch_size: int,
        in_channels: int,
        embed_dim: int,
        local_up_to_layer: int,
        use_pos_embed: bool,
        num_classes: int,
        drop: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.patch_size, self.grid, self.local_up_to_layer = patch_size, grid, local_up_to_layer
        self.learned, self.karat = learned, karat
        self.patch_embed = PatchEmbed(patch_size, in_channels, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        shape = (1, grid[0] * grid[1], embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(shape)) if use_pos_embed else None
        self.pos_drop = nn.Dropout(drop)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(embed_dim, eps)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        init_weights(self, nn.Linear)
        for table in (self.cls_token, self.pos_embed):
            if table is not None:
                nn.init.trunc_normal_(table, std=0.02)

    def convert_state(self, state: State) -> State:
        """Resize a file's position table to this model's grid."""
        state = {name: x for name, x in state.items() if not name.endswith("rel_indices")}
        if self.pos_embed is not None:
            fit_positions(state, "pos_embed", self.grid)
        return state

    def forward(self, x: Tensor) -> Tensor:
        grid = grid_of((x.shape[-2], x.shape[-1]), self.patch_size)
        if self.learned:
            check_grid(x, self.patch_size, self.grid, "the learned maps")
        x = self.patch_embed(x)
        if self.pos_embed is not None:
            x = x + resize_positions(self.pos_embed, self.grid, grid)
        x = self.pos_drop(x)
        offsets = grid_offsets(grid, x)
        for block in self.blocks[: self.local_up_to_layer]:
            x = self.through(block, x, offsets)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        for place in range(self.local_up_to_layer, len(self.blocks)):
            last = self.karat is not None and place >= len(self.blocks) - self.learned
            x = self.through(self.blocks[place], x, *([self.karat] if last else []))
        return self.head(self.norm(x)[:, 0])


def convit(
    *,
    img_size: int | tuple[int, int] = 224,
    patch_size: int = 16,
    in_channels: int = 3,
    embed_dim: int | None = None,
    head_dim: int | None = None,
    num_heads: int = 4,
    depth: int = 12,
    local_up_to_layer: int = 10,
    locality_strength: float = 1.0,
    use_pos_embed: bool = True,
    mlp_ratio: float = 4.0,
    qkv_bias: bool = False,
    num_classes: int = 1000,
    norm_eps: float = 1e-6,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    karat_blocks: int = 0,
    rank: int = 12,
    grid_size: int = 3,
    universal: bool = False,
    basis: str = "fourier",
    base: str = "zero",
    order: Order = "w_phi",
    scales: bool = True,
    simplex: bool = False,
    softmax_heads: tuple[int, ...] = (),
) -> ConViT:
    """A ConViT.

    embed_dim   the whole width; or give head_dim, the width of a head (48 in the paper)
    local_up_to_layer   blocks with gated positional attention, which see no class token
    locality_strength   how sharply heads look around their offsets at the start
    drop_path   share of branches dropped in the last block, growing from 0 in the first; 0.1
                trained the published models
    karat_blocks   the last blocks whose maps are learned functions of their scores (KArAt,
                arXiv 2503.10632: 2); what follows it builds those, as in `karat`
    """
    dim = attention_width(embed_dim, head_dim, num_heads, usual=48)
    _check_depth(depth, local_up_to_layer, karat_blocks)
    options = KanOptions(
        rank, grid_size, basis, base, order, simplex, scales, universal, tuple(softmax_heads)
    ).checked(num_heads)
    if not karat_blocks and options != KanOptions():
        raise OptionError(
            "rank, grid_size, basis and the like build learned maps, but karat_blocks=0 has none: "
            "give karat_blocks=2, or leave them out"
        )
    grid = grid_of(img_size, patch_size)
    tokens, learned = 1 + grid[0] * grid[1], depth - karat_blocks
    blocks = []
    for place, drop in enumerate(drop_rates(drop_path, [depth])):
        attn: nn.Module
        if place < local_up_to_layer:
            attn = GPSA(dim, num_heads, qkv_bias, locality_strength, dropout, grid)
        elif place < learned:
            attn = SelfAttention(dim, num_heads, qkv_bias, dropout, 0.0)
        else:
            attn = KanAttention(dim, num_heads, qkv_bias, dropout, tokens, options)
        mlp = Mlp(dim, int(dim * mlp_ratio), drop=dropout)
        blocks.append(Block(dim, attn, mlp, norm_eps, drop))
    built = ConViT(
        blocks,
        KanOperator(num_heads, tokens, options) if universal and karat_blocks else None,
        learned=karat_blocks,
        grid=grid,
        patch_size=patch_size,
        in_channels=in_channels,
        embed_dim=dim,
        local_up_to_layer=local_up_to_layer,
        use_pos_embed=use_pos_embed,
        num_classes=num_classes,
        drop=dropout,
        eps=norm_eps,
    )
    for block in blocks:
        if isinstance(block.attn, GPSA):
            block.attn.local_init(locality_strength)
    return built


def _check_depth(depth: int, local_up_to_layer: int, karat_blocks: int) -> None:
    """Raise OptionError where blocks of a kind do not fit into the depth."""
    if not 0 <= local_up_to_layer < depth:
        raise OptionError(
            f"local_up_to_layer={local_up_to_layer} of {depth} blocks leaves none for the class "
            "token: give at most depth - 1"
        )
    if not 0 <= karat_blocks <= depth - local_up_to_layer:
        raise OptionError(
            f"karat_blocks={karat_blocks} of {depth} blocks reach those without a class token: "
            f"give at most depth - local_up_to_layer = {depth - local_up_to_layer}"
        )


def published(name: str) -> dict[str, Source]:
    """The authors' file and timm's."""
    return {
        "imagenet": Source(f"https://dl.fbaipublicfiles.com/convit/{name}.pth"),
        "fb_in1k": Source(hub=f"timm/{name}.fb_in1k", file="model.safetensors"),
    }


DIGITS = Source(package="limelight.models.zoo", file="convit_digits.safetensors")
VARIANTS = (
    Variant("convit_tiny", build={"num_heads": 4}, weights=published("convit_tiny")),
    Variant("convit_small", build={"num_heads": 9}, weights=published("convit_small")),
    Variant("convit_base", build={"num_heads": 16}, weights=published("convit_base")),
    Variant(
        "convit_tiny_karat_g3b",
        build={"num_heads": 4, "karat_blocks": 2},
        about="top-1 75.57 on CIFAR-10 in the paper, ConViT-Tiny 71.36; no weights",
        card={"paper": "Kolmogorov-Arnold Attention, arXiv 2503.10632"},
    ),
    Variant(
        "convit_digits",
        build={
            "patch_size": 4,
            "embed_dim": 64,
            "num_heads": 4,
            "depth": 4,
            "local_up_to_layer": 3,
            "mlp_ratio": 2.0,
            "num_classes": 10,
        },
        size=32,
        resize=32,
        weights={"digits": DIGITS},
        about="handwritten digits 0 to 9, 99.2 % right; trained for limelight and shipped with it",
        card={
            "interpolation": "bilinear",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "labels": tuple("0123456789"),
        },
    ),
)
register(
    convit,
    Card(
        "ConViT",
        "ConViT: soft convolutional inductive biases, arXiv 2103.10697",
        hidden=("blocks.*",),
        heads=("blocks.*.attn",),
        prefix=1,
        classifier="head",
        interpolation="bicubic",
        shows=(
            Figure(
                "Gates",
                "heads",
                methods=("gate",),
                about="The share of attention that position decides, 1 for position alone.",
            ),
            CENTRE,
            DISTANCE,
        ),
    ),
    VARIANTS,
)

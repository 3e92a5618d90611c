"""ConViT (arXiv 2103.10697): attention that starts as a convolution, and gates to leave it."""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor, nn

from ...kernels.attention import attention
from ...probe.errors import OptionError
from ..card import Card, Source, State
from ..layers import (
    Attention,
    Block,
    Checkpointing,
    Grid,
    Mlp,
    PatchEmbed,
    grid_of,
    resize_positions,
    square_grid,
)
from ..registry import model


class GPSA(nn.Module):
    """Gated positional self-attention: A = (1 - g) softmax(q k') + g softmax(v . r), per head.

    r = (dx, dy, dx^2 + dy^2) from query to key, g = sigmoid(gating_param). The op's ports `gate`
    and `position` are g and the positional scores.
    """

    def __init__(
        self, dim: int, num_heads: int, qkv_bias: bool, strength: float, drop: float, grid: Grid
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
        known = self.grid[0] * self.grid[1] == tokens
        return grid_offsets(self.grid if known else square_grid(tokens), like)


def grid_offsets(grid: Grid, like: Tensor) -> Tensor:
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


class ConViTBlock(Block):
    """x + attention(norm(x)), then x + MLP(norm(x)); training drops a share of the branches."""

    def __init__(self, dim: int, attn: nn.Module, mlp: nn.Module, eps: float, drop: float) -> None:
        super().__init__(dim, attn, mlp, eps)
        self.drop = drop

    def forward(self, x: Tensor, *offsets: Tensor) -> Tensor:
        x = x + self._dropped(self.attn(self.norm1(x), *offsets))
        return x + self._dropped(self.mlp(self.norm2(x)))

    def _dropped(self, x: Tensor) -> Tensor:
        if not (self.training and self.drop):
            return x
        kept = torch.rand(len(x), 1, 1, device=x.device) >= self.drop
        return x * kept / (1 - self.drop)


class ConViT(Checkpointing, nn.Module):
    """GPSA blocks on patches alone; then the class token joins, and ordinary blocks follow."""

    def __init__(
        self,
        blocks: list[ConViTBlock],
        *,
        grid: Grid,
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
        self.patch_embed = PatchEmbed(patch_size, in_channels, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        shape = (1, grid[0] * grid[1], embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(shape)) if use_pos_embed else None
        self.pos_drop = nn.Dropout(drop)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(embed_dim, eps)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        self._init()

    def _init(self) -> None:
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        for table in (self.cls_token, self.pos_embed):
            if table is not None:
                nn.init.trunc_normal_(table, std=0.02)

    def convert_state(self, state: State) -> State:
        """Resize a file's position table to this model's grid."""
        state = {name: x for name, x in state.items() if not name.endswith("rel_indices")}
        own, table = self.pos_embed, state.get("pos_embed")
        if own is None or table is None or table.ndim != 3:
            return state
        if table.shape[1] != own.shape[1]:
            old = square_grid(table.shape[1])
            state["pos_embed"] = resize_positions(table, old, self.grid, prefix=0)
        return state

    def forward(self, x: Tensor) -> Tensor:
        grid = grid_of((x.shape[-2], x.shape[-1]), self.patch_size)
        x = self.patch_embed(x)
        if self.pos_embed is not None:
            x = x + resize_positions(self.pos_embed, self.grid, grid, prefix=0)
        x = self.pos_drop(x)
        offsets = grid_offsets(grid, x)
        for block in self.blocks[: self.local_up_to_layer]:
            x = self.through(block, x, offsets)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks[self.local_up_to_layer :]:
            x = self.through(block, x)
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
) -> ConViT:
    """A ConViT.

    embed_dim   the whole width; or give head_dim, the width of a head (48 in the paper)
    local_up_to_layer   blocks with gated positional attention, which see no class token
    locality_strength   how sharply heads look around their offsets at the start
    drop_path   share of branches dropped in the last block, growing from 0 in the first; 0.1
                trained the published models
    """
    dim = embed_dim or (head_dim or 48) * num_heads
    if (
        num_heads < 1
        or dim % num_heads
        or (head_dim and embed_dim and head_dim != dim // num_heads)
    ):
        raise OptionError(
            f"embed_dim={embed_dim}, head_dim={head_dim} and num_heads={num_heads} do not fit: "
            "give a width that is heads x head_dim"
        )
    if not 0 <= local_up_to_layer < depth:
        raise OptionError(
            f"local_up_to_layer={local_up_to_layer} of {depth} blocks leaves none for the class "
            "token: give at most depth - 1"
        )
    grid = grid_of(img_size, patch_size)
    blocks = []
    for place in range(depth):
        attn = (
            GPSA(dim, num_heads, qkv_bias, locality_strength, dropout, grid)
            if place < local_up_to_layer
            else SelfAttention(dim, num_heads, qkv_bias, dropout, 0.0)
        )
        mlp, drop = Mlp(dim, int(dim * mlp_ratio), "gelu", dropout), drop_path * place
        blocks.append(ConViTBlock(dim, attn, mlp, norm_eps, drop / max(depth - 1, 1)))
    built = ConViT(
        blocks,
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


PAPER = "ConViT: soft convolutional inductive biases, arXiv 2103.10697"
SITES = {"hidden": ("blocks.*",), "heads": ("blocks.*.attn",), "classifier": "head", "prefix": 1}
VARIANTS = {"convit_tiny": 4, "convit_small": 9, "convit_base": 16}

for _name, _heads in VARIANTS.items():
    _card = Card(
        _name,
        PAPER,
        resize=256,
        interpolation="bicubic",
        weights={
            "imagenet": Source(f"https://dl.fbaipublicfiles.com/convit/{_name}.pth"),
            "fb_in1k": Source(hub=f"timm/{_name}.fb_in1k", file="model.safetensors"),
        },
        **SITES,  # type: ignore[arg-type]
    )
    model(_name, card=_card, num_heads=_heads)(convit)

DIGITS = Card(
    "convit_digits",
    PAPER,
    size=32,
    resize=32,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    labels=tuple("0123456789"),
    weights={"digits": Source(package="limelight.models.zoo", file="convit_digits.safetensors")},
    about="handwritten digits 0 to 9, 99.2 % right; trained for limelight and shipped with it",
    **SITES,  # type: ignore[arg-type]
)
model(
    "convit_digits",
    card=DIGITS,
    img_size=32,
    patch_size=4,
    embed_dim=64,
    num_heads=4,
    depth=4,
    local_up_to_layer=3,
    mlp_ratio=2.0,
    num_classes=10,
)(convit)

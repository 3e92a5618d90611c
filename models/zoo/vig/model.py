"""ViG (arXiv 2405.18425): gated linear attention over pictures, both ways in one scan."""

from __future__ import annotations

from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....kernels.gated_linear import bidirectional_gla
from ....probe.errors import OptionError
from ....probe.mark import mark
from ...card import Card, Source, State, sides
from ...layers import (
    ChannelNorm,
    Checkpointing,
    GatedMlp,
    GridSize,
    fit_positions,
    resize_positions,
)
from ...registry import Variant, register


class Mixer(nn.Module):
    """A local convolution, then linear attention over what it gives; a gate chooses per channel.

    y = g rms(attention) + (1 - g) rms(local), g = sigmoid(g_proj(local)), read as `locality`: 1
    where a channel takes the global result. `decay` and `decay_back` are exp of the op's gates.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        expand_k: float,
        act: bool,
        out_act: bool,
        clamp: float | None,
        normalizer: float,
        rank: int,
        eps: float,
        halve: bool,
    ) -> None:
        super().__init__()
        keys = int(dim * expand_k)
        if dim % num_heads or keys % num_heads:
            raise OptionError(
                f"a width of {dim} and keys of {keys} do not divide into {num_heads} heads: "
                "change embed_dim, expand_k or num_heads"
            )
        self.num_heads, self.keys, self.halve = num_heads, keys, halve
        self.clamp, self.normalizer, self.out_act = clamp, normalizer, out_act
        conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
        self.in_proj = nn.Sequential(conv, *([nn.SiLU()] * act))
        self.qkv_proj = nn.Linear(dim, 2 * keys + dim, bias=False)
        self.gk_proj = nn.Sequential(nn.Linear(dim, rank, bias=False), nn.Linear(rank, 2 * keys))
        self.o_proj = nn.Linear(dim, dim, bias=False)
        self.g_norm = nn.RMSNorm(dim // num_heads, eps)
        self.l_norm = nn.RMSNorm(dim // num_heads, eps)
        self.g_proj = nn.Linear(dim, dim)
        gain = 2**-2.5
        for part in (self.qkv_proj, self.g_proj, self.o_proj, *self.gk_proj, conv):
            nn.init.xavier_uniform_(part.weight, gain)

    def forward(self, x: Tensor, grid: GridSize) -> Tensor:
        """Tokens `b n c` on a grid -> the same."""
        local = self.in_proj(x.transpose(1, 2).unflatten(2, grid)).flatten(2).transpose(1, 2)
        keys = [self.keys, self.keys, x.shape[-1]]
        q, k, v = (self._heads(part) for part in self.qkv_proj(local).split(keys, -1))
        gate, back = (self._heads(part) for part in self._gates(local).chunk(2, -1))
        out = bidirectional_gla(q, k, v, mark("log_decay", gate), mark("log_decay_back", back))
        if self.halve and not self.training:
            out = out / 2  # as the published model does, once more than its kernel
        g = mark("locality", self.g_proj(local).sigmoid())
        far = self.g_norm(out.transpose(1, 2)).flatten(2)
        near = self.l_norm(local.unflatten(-1, (self.num_heads, -1))).flatten(2)
        y = g * far + (1 - g) * near
        return self.o_proj(F.silu(y) if self.out_act else y)

    def _gates(self, local: Tensor) -> Tensor:
        gates = F.logsigmoid(self.gk_proj(local)) / self.normalizer
        return gates if self.clamp is None else gates.clamp(min=self.clamp)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Pre-norm residual block of a mixer and a gated MLP."""

    def __init__(self, dim: int, attn: Mixer, hidden: int, eps: float, scale: float | None) -> None:
        super().__init__()
        self.attn_norm = nn.RMSNorm(dim, eps)
        self.attn = attn
        self.mlp_norm = nn.RMSNorm(dim, eps)
        self.mlp = GatedMlp(dim, hidden, names=("gate_proj", "down_proj"))
        for name in ("gamma1", "gamma2") if scale is not None else ():
            setattr(self, name, nn.Parameter(torch.full((dim,), float(scale))))  # type: ignore[arg-type]

    def forward(self, x: Tensor, grid: GridSize) -> Tensor:
        first, second = (getattr(self, name, 1.0) for name in ("gamma1", "gamma2"))
        x = x + first * self.attn(self.attn_norm(x), grid)
        return x + second * self.mlp(self.mlp_norm(x))


class Stem(nn.Module):
    """Two convolutions with norms: 16 pixels to a token in two steps."""

    def __init__(self, in_channels: int, dim: int, act: bool) -> None:
        super().__init__()
        half = dim // 2
        self.proj = nn.Sequential(
            nn.Conv2d(in_channels, half, 9, stride=8, padding=1),
            ChannelNorm(half),
            nn.SiLU(),
            nn.Conv2d(half, dim, 3, stride=2, padding=1),
            ChannelNorm(dim),
            *([nn.SiLU()] * act),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class ViG(Checkpointing, nn.Module):
    """Patches, positions, blocks; the mean of all tokens is classified."""

    def __init__(
        self,
        blocks: list[Block],
        *,
        dim: int,
        grid: GridSize,
        in_channels: int,
        num_classes: int,
        patch_act: bool,
        positions: bool,
        eps: float,
    ) -> None:
        super().__init__()
        self.grid = grid
        shape = (1, grid[0] * grid[1], dim)
        self.pos_embed = nn.Parameter(torch.zeros(shape)) if positions else None
        self.patch_embed = Stem(in_channels, dim, patch_act)
        self.head = nn.Linear(dim, num_classes) if num_classes else nn.Identity()
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.RMSNorm(dim, eps)
        if self.pos_embed is not None:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def convert_state(self, state: State) -> State:
        """Resize a file's position table to this model's grid."""
        if self.pos_embed is not None:
            fit_positions(state, "pos_embed", self.grid, antialias=False)
        return state

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        grid = (x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2)
        if self.pos_embed is not None:
            x = x + resize_positions(self.pos_embed, self.grid, grid, antialias=False)
        for block in self.blocks:
            x = self.through(block, x, grid)
        return self.head(self.norm(x).mean(1))


def vig(
    *,
    img_size: int | tuple[int, int] = 224,
    in_channels: int = 3,
    embed_dim: int = 192,
    depth: int = 12,
    num_heads: int = 3,
    expand_k: float = 0.5,
    mlp_ratio: float = 4.0,
    use_act_in_conv: bool = False,
    use_out_act: bool = False,
    use_act_in_patch: bool = False,
    if_abs_pos_embed: bool = True,
    layer_scale_init: float | None = None,
    clamp_min: float | None = None,
    gate_logit_normalizer: float = 16,
    gate_low_rank_dim: int = 16,
    norm_eps: float = 1e-6,
    num_classes: int = 1000,
) -> ViG:
    """A plain ViG.

    use_act_in_conv   SiLU after the local convolution
    use_out_act       SiLU before the output projection
    clamp_min         the least log decay
    """

    def mixer() -> Mixer:
        return Mixer(
            embed_dim,
            num_heads,
            expand_k=expand_k,
            act=use_act_in_conv,
            out_act=use_out_act,
            clamp=clamp_min,
            normalizer=gate_logit_normalizer,
            rank=gate_low_rank_dim,
            eps=norm_eps,
            halve=True,
        )

    hidden = rounded_up(embed_dim * mlp_ratio * 2 / 3, 256)
    blocks = [Block(embed_dim, mixer(), hidden, norm_eps, layer_scale_init) for _ in range(depth)]
    height, width = (((side + 2 - 9) // 8 + 1 - 1) // 2 + 1 for side in sides(img_size))
    return ViG(
        blocks,
        dim=embed_dim,
        grid=(height, width),
        in_channels=in_channels,
        num_classes=num_classes,
        patch_act=use_act_in_patch,
        positions=if_abs_pos_embed,
        eps=norm_eps,
    )


def rounded_up(width: float, multiple: int) -> int:
    """The least multiple that is no smaller than the width's whole part."""
    return multiple * ceil(int(width) / multiple)


def published(name: str) -> dict[str, Source]:
    """The file of the authors' hub repository; its name is that of the model there."""
    return {"imagenet": Source(hub="hustvl/ViG", file=f"{name}.pth", key="model")}


PAPER = "ViG: visual sequences with gated linear attention, arXiv 2405.18425"
FIXED: dict[str, object] = {
    "patch_size": 16,
    "stride": 16,
    "expand_v": 1.0,
    "use_out_gate": False,
    "use_swiglu": True,
    "if_cls_token": False,
    "classification_mode": "avgpool",
    "patch_embed_version": "v2",
    "rope_mode": "none",
}
VARIANTS = (
    Variant(
        "vig_tiny",
        build={
            "embed_dim": 192,
            "num_heads": 3,
            "use_act_in_conv": True,
            "use_out_act": True,
        },
        weights=published("vig_tiny"),
    ),
    Variant("vig_small", build={"embed_dim": 384, "num_heads": 6}, weights=published("vig_small")),
    Variant("vig_base", build={"embed_dim": 768, "num_heads": 12}, weights=published("vig_base")),
)
register(
    vig,
    Card(
        "ViG",
        PAPER,
        hidden=("blocks.*",),
        heads=("blocks.*.attn",),
        prefix=0,
        classifier="head",
        interpolation="bicubic",
    ),
    VARIANTS,
    fixed=FIXED,
)

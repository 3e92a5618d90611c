"""VOLO (arXiv 2106.13112): outlook attention on a fine grid, then attention on a coarse one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.attention import attention
from ..kernels.outlook import outlook
from ..probe.errors import OptionError
from ..probe.mark import mark
from .card import Card, Source, State, sides
from .checkpointing import Checkpointing
from .registry import model
from .vit import Mlp


class OutlookAttention(nn.Module):
    """Each place on a coarse grid predicts how its k x k neighbours mix; `b y x c`."""

    def __init__(
        self, dim: int, num_heads: int, kernel: int, stride: int, padding: int, qkv_bias: bool
    ) -> None:
        super().__init__()
        self.num_heads, self.scale = num_heads, (dim // num_heads) ** -0.5
        self.how = {"kernel_size": kernel, "stride": stride, "padding": padding}
        self.v = nn.Linear(dim, dim, bias=qkv_bias)
        self.attn = nn.Linear(dim, kernel**4 * num_heads)
        self.proj = nn.Linear(dim, dim)
        self.pool = nn.AvgPool2d(stride, stride, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        v = self.v(x).flatten(1, 2).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        centres = self.pool(x.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        places = self.how["kernel_size"] ** 2
        weight = self.attn(centres).unflatten(2, (self.num_heads, places, places)).transpose(1, 2)
        out = outlook(v, weight * self.scale, grid=(height, width), **self.how)
        return self.proj(out.transpose(1, 2).flatten(2).unflatten(1, (height, width)))


class SelfAttention(nn.Module):
    """Softmax attention over all places of `b y x c`."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        grid = (x.shape[1], x.shape[2])
        qkv = self.qkv(x).flatten(1, 2).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        out = attention(*qkv.unbind(0))
        return self.proj(out.transpose(1, 2).flatten(2).unflatten(1, grid))


class ClassAttention(nn.Module):
    """The class token asks all tokens; `b n c` -> `b 1 c`."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.kv(x).unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        q = self.q(x[:, :1]).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        return self.proj(attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + mixer(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, dim: int, attn: nn.Module, mlp_ratio: float, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), "gelu", 0.0)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ClassBlock(Block):
    """A block that changes the class token only."""

    def forward(self, x: Tensor) -> Tensor:
        token = x[:, :1] + self.attn(self.norm1(x))
        token = token + self.mlp(self.norm2(token))
        return torch.cat([token, x[:, 1:]], 1)


class PatchEmbed(nn.Module):
    """Three convolutions at half size, then patches of 4 x 4 of them."""

    def __init__(self, in_channels: int, hidden: int, dim: int, patch_size: int, eps: float):
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, kernel, stride in ((in_channels, 7, 2), (hidden, 3, 1), (hidden, 3, 1)):
            conv = nn.Conv2d(inputs, hidden, kernel, stride, kernel // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(hidden, eps), nn.ReLU(inplace=True)]
        self.conv = nn.Sequential(*layers)
        self.proj = nn.Conv2d(hidden, dim, patch_size // 2, patch_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.conv(x))


class Downsample(nn.Module):
    """`b y x c` at half the rows and columns."""

    def __init__(self, dim: int, out: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dim, out, patch_size, patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class VOLO(Checkpointing, nn.Module):
    """Outlookers, downsampling, transformers, class attention; a class map from every token.

    In training it gives (class logits, logits of all tokens, the box of mixed-in tokens).
    """

    def __init__(
        self,
        network: list[nn.Module],
        post: list[Block],
        stem: PatchEmbed,
        *,
        dim: int,
        table: tuple[int, int],
        pooling_scale: int,
        num_classes: int,
        return_dense: bool,
        mix_token: bool,
        eps: float,
    ) -> None:
        super().__init__()
        self.pooling_scale, self.return_dense, self.mix_token = (
            pooling_scale, return_dense, mix_token,
        )  # fmt: skip
        self.patch_embed = stem
        self.pos_embed = nn.Parameter(torch.zeros(1, *table, dim))
        self.network = nn.ModuleList(network)
        self.post_network = nn.ModuleList(post)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if post else None
        self.aux_head = nn.Linear(dim, num_classes) if return_dense else nn.Identity()
        self.norm = nn.LayerNorm(dim, eps)
        self.head = nn.Linear(dim, num_classes)
        self._init()

    def _init(self) -> None:
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)

    def convert_state(self, state: State) -> State:
        """Resize a file's position table to this model's grid."""
        table = state.get("pos_embed")
        if table is not None and table.shape[1:3] != self.pos_embed.shape[1:3]:
            state["pos_embed"] = _resized(table, self.pos_embed.shape[1:3])
        return state

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor, tuple[int, int, int, int]]:
        x = self.patch_embed(x).permute(0, 2, 3, 1)
        box = (0, 0, 0, 0)
        if self.training and self.mix_token and self.return_dense:
            x, box = self._mix(x)
        x = self._body(x)
        grid = (x.shape[1], x.shape[2])
        x = x.flatten(1, 2)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
            for block in self.post_network:
                x = self.through(block, x)
        x = self.norm(x)
        prefix = 0 if self.cls_token is None else 1
        first = self.head(x[:, 0] if prefix else x.mean(1))
        if not self.return_dense:
            return first
        dense = mark("dense", self.aux_head(x[:, prefix:]))
        if not self.training:
            return first + 0.5 * dense.max(1).values
        if box != (0, 0, 0, 0):  # tokens that were mixed in go back to where they came from
            own, other = (dense.unflatten(1, grid) for dense in (dense, dense.flip(0)))
            dense = _pasted(own, other, box).flatten(1, 2)
        return first, dense, box

    def _body(self, x: Tensor) -> Tensor:
        for place, stage in enumerate(self.network):
            if place == 2:
                x = x + _resized(self.pos_embed, x.shape[1:3])
            blocks = stage if isinstance(stage, nn.Sequential) else [stage]
            for block in blocks:
                x = self.through(block, x)
        return x

    def _mix(self, x: Tensor) -> tuple[Tensor, tuple[int, int, int, int]]:
        """Paste a box of each picture's tokens from the one at the other end of the batch."""
        scale = self.pooling_scale
        rows, columns = x.shape[1] // scale, x.shape[2] // scale
        share = (1 - torch.distributions.Beta(1.0, 1.0).sample()).sqrt()
        centre = torch.randint(rows, ()).item(), torch.randint(columns, ()).item()
        half = int(rows * share) // 2, int(columns * share) // 2
        top, left = (max(c - h, 0) for c, h in zip(centre, half, strict=True))
        low, right = (min(c + h, n) for c, h, n in zip(centre, half, (rows, columns), strict=True))
        box = (int(top), int(left), int(low), int(right))
        wide = (box[0] * scale, box[1] * scale, box[2] * scale, box[3] * scale)
        return _pasted(x, x.flip(0), wide), box


def _pasted(x: Tensor, other: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    inside = torch.zeros(x.shape[1:3], dtype=torch.bool, device=x.device)
    inside[box[0] : box[2], box[1] : box[3]] = True
    return torch.where(inside[None, :, :, None], other, x)


def _resized(table: Tensor, grid: Sequence[int]) -> Tensor:
    """Positions `1 y x c` on another grid, bicubic."""
    if tuple(table.shape[1:3]) == tuple(grid):
        return table
    plane = table.float().permute(0, 3, 1, 2)
    grown = F.interpolate(plane, size=tuple(grid), mode="bicubic", align_corners=False)
    return grown.permute(0, 2, 3, 1).to(table.dtype)


def volo(
    *,
    img_size: int | tuple[int, int] = 224,
    patch_size: int = 8,
    in_channels: int = 3,
    layers: Sequence[int] = (4, 4, 8, 2),
    embed_dims: Sequence[int] = (192, 384, 384, 384),
    num_heads: Sequence[int] = (6, 12, 12, 12),
    mlp_ratio: float | Sequence[float] = 3.0,
    stem_hidden_dim: int = 64,
    out_kernel: int = 3,
    out_stride: int = 2,
    out_padding: int = 1,
    qkv_bias: bool = False,
    post_layers: Sequence[str] | None = ("ca", "ca"),
    return_dense: bool = True,
    mix_token: bool = True,
    pooling_scale: int = 2,
    ln_eps: float = 1e-5,
    bn_eps: float = 1e-5,
    num_classes: int = 1000,
) -> VOLO:
    """A VOLO.

    layers   outlookers, then transformer blocks of each further stage
    post_layers   "ca" for each class-attention block; None classifies the mean of all tokens
    return_dense  logits of all tokens as well: half of their maximum is added to the class logits
    mix_token     in training, a box of tokens is exchanged between pictures
    """
    ratios = [mlp_ratio] * len(layers) if isinstance(mlp_ratio, (int, float)) else list(mlp_ratio)
    _check(layers, embed_dims, num_heads, ratios, post_layers)
    network: list[nn.Module] = []
    for place, (depth, dim, heads, ratio) in enumerate(
        zip(layers, embed_dims, num_heads, ratios, strict=True)
    ):
        blocks = []
        for _ in range(depth):
            mixer: nn.Module = (
                SelfAttention(dim, heads, qkv_bias)
                if place
                else OutlookAttention(dim, heads, out_kernel, out_stride, out_padding, qkv_bias)
            )
            blocks.append(Block(dim, mixer, ratio, ln_eps))
        network.append(nn.Sequential(*blocks))
        if place == 0:
            network.append(Downsample(dim, embed_dims[1], pooling_scale))
    width, heads = embed_dims[-1], num_heads[-1]
    post: list[Block] = [
        ClassBlock(width, ClassAttention(width, heads, qkv_bias), ratios[-1], ln_eps)
        for _ in post_layers or ()
    ]
    height, breadth = (side // patch_size // pooling_scale for side in sides(img_size))
    return VOLO(
        network,
        post,
        PatchEmbed(in_channels, stem_hidden_dim, embed_dims[0], patch_size, bn_eps),
        dim=width,
        table=(height, breadth),
        pooling_scale=pooling_scale,
        num_classes=num_classes,
        return_dense=return_dense,
        mix_token=mix_token,
        eps=ln_eps,
    )


def _check(
    layers: Sequence[int],
    dims: Sequence[int],
    heads: Sequence[int],
    ratios: Sequence[float],
    post: Sequence[str] | None,
) -> None:
    if len({len(layers), len(dims), len(heads), len(ratios)}) != 1 or len(layers) < 2:
        raise OptionError(
            f"layers={list(layers)}, embed_dims={list(dims)} and num_heads={list(heads)} name "
            "different numbers of stages: give one of each a stage, at least two"
        )
    bad = [f"{d} by {h}" for d, h in zip(dims, heads, strict=True) if d % h]
    if bad:
        raise OptionError(f"a width does not divide into its heads ({bad[0]}): change num_heads")
    if len(set(dims[1:])) != 1:
        raise OptionError(f"embed_dims={list(dims)}: all stages after the first share one width")
    if any(word != "ca" for word in post or ()):
        raise OptionError(f"post_layers={list(post or ())} may hold 'ca', class attention, only")


PAPER = "VOLO: vision outlooker, arXiv 2106.13112"
URL = "https://github.com/sail-sg/volo/releases/download/volo_1/{}.pth.tar"
VARIANTS = {
    "volo_d1": ((4, 4, 8, 2), 192, 6, 3.0, 64),
    "volo_d2": ((6, 4, 10, 4), 256, 8, 3.0, 64),
    "volo_d3": ((8, 8, 16, 4), 256, 8, 3.0, 64),
    "volo_d4": ((8, 8, 16, 4), 384, 12, 3.0, 64),
    "volo_d5": ((12, 12, 20, 4), 384, 12, 4.0, 128),
}
FILES = {  # size of the input: file, and the share of the picture that is seen
    "volo_d1": {224: ("d1_224_84.2", 0.96), 384: ("d1_384_85.2", 1.0)},
    "volo_d2": {224: ("d2_224_85.2", 0.96), 384: ("d2_384_86.0", 1.0)},
    "volo_d3": {224: ("d3_224_85.4", 0.96), 448: ("d3_448_86.3", 1.0)},
    "volo_d4": {224: ("d4_224_85.7", 0.96), 448: ("d4_448_86.79", 1.15)},
    "volo_d5": {
        224: ("d5_224_86.10", 0.96),
        448: ("d5_448_87.0", 1.15),
        512: ("d5_512_87.07", 1.15),
    },
}

for _name, (_layers, _dim, _heads, _ratio, _hidden) in VARIANTS.items():
    for _size, (_file, _crop) in FILES[_name].items():
        _own = _name if _size == 224 else f"{_name}_{_size}"
        _card = Card(
            _own,
            PAPER,
            hidden=("network.0.*", "network.2.*", "network.3.*", "network.4.*"),
            heads=(
                "network.0.*.attn",
                "network.2.*.attn",
                "network.3.*.attn",
                "network.4.*.attn",
                "post_network.*.attn",
            ),
            prefix=1,
            last=True,
            classifier="head",
            size=_size,
            resize=max(int(_size / _crop), _size),
            interpolation="bicubic",
            weights={
                "imagenet": Source(URL.format(_file)),
                "sail_in1k": Source(
                    hub=f"timm/{_name}_{_size}.sail_in1k", file="model.safetensors"
                ),
            },
            about=f"ImageNet top-1 {_file.rsplit('_', 1)[1]} % at {_size} pixels",
        )
        _wide = 2 * _dim
        _also = (f"{_name}_224",) if _size == 224 else ()
        model(
            _own,
            card=_card,
            also=_also,
            img_size=_size,
            layers=_layers,
            embed_dims=(_dim, _wide, _wide, _wide),
            num_heads=(_heads, *(16 if _dim == 384 else 2 * _heads,) * 3),
            mlp_ratio=_ratio,
            stem_hidden_dim=_hidden,
        )(volo)

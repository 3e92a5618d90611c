"""VOLO (arXiv 2106.13112): outlook attention on a fine grid, then attention on a coarse one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ....probe.mark import mark
from ...card import Card, Source, State, sides
from ...layers import POOLS, Checkpointing, resize_positions
from ...registry import model
from .blocks import (
    Block,
    ClassAttention,
    ClassBlock,
    Downsample,
    OutlookAttention,
    PatchEmbed,
    SelfAttention,
    check_grid,
    check_options,
)

Box = tuple[int, int, int, int]
NO_BOX = (0, 0, 0, 0)


class VOLO(Checkpointing, nn.Module):
    """Outlookers, downsampling, transformers, class attention; class logits of every token.

    Port `dense`: those logits as a class map, `b y x classes`. In training the result is (class
    logits, logits of all tokens `b n classes`, box of the tokens that were mixed in).
    """

    def __init__(
        self,
        network: list[nn.Module],
        post: list[Block] | None,
        stem: PatchEmbed,
        *,
        dim: int,
        table: tuple[int, int],
        pool: str,
        pooling_scale: int,
        num_classes: int,
        return_dense: bool,
        mix_token: bool,
        drop: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.hidden = tuple(f"network.{n}.*" for n in range(len(network)) if n != 1)
        self.pool, self.pooling_scale = pool, pooling_scale
        self.return_dense, self.mix_token = return_dense, mix_token
        self.patch_embed = stem
        self.pos_embed = nn.Parameter(torch.zeros(1, *table, dim))
        self.pos_drop = nn.Dropout(drop)
        self.network = nn.ModuleList(network)
        self.post_network = nn.ModuleList(post or ())
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if post is not None else None
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
        """Resize a file's position table to this model's grid; new classes renew both heads."""
        table = state.get("pos_embed")
        if table is not None and table.ndim == 4:
            height, width = self.pos_embed.shape[1:3]
            state["pos_embed"] = _on_grid(table, (height, width))
        own = self.state_dict()
        weights = ("head.weight", "aux_head.weight")
        if all(w in state and w in own and state[w].shape != own[w].shape for w in weights):
            self.aux_head.reset_parameters()  # type: ignore[operator]
            state |= {name: own[name] for name in ("aux_head.weight", "aux_head.bias")}
        return state

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor, Box]:
        x = self.patch_embed(x).permute(0, 2, 3, 1)
        box: Box = NO_BOX
        if self.training and self.mix_token and self.return_dense:
            box = self._box(x.shape[1], x.shape[2])
            wide = [side * self.pooling_scale for side in box]
            x = _pasted(x, x.flip(0), wide)
        x = self._body(x)
        grid = (x.shape[1], x.shape[2])
        x = self.norm(self._post(x.flatten(1, 2)))
        first = self.head(x[:, 0] if self.pool == "token" else x.mean(1))
        if not self.return_dense:
            return first
        patches = x if self.cls_token is None else x[:, 1:]
        dense = mark("dense", self.aux_head(patches).unflatten(1, grid))
        if not self.training:
            return first + 0.5 * dense.flatten(1, 2).amax(1)
        return first, _pasted(dense, dense.flip(0), box).flatten(1, 2), box

    def _body(self, x: Tensor) -> Tensor:
        for place, stage in enumerate(self.network):
            if place == 2:  # positions enter after the downsampling
                x = self.pos_drop(x + _on_grid(self.pos_embed, (x.shape[1], x.shape[2])))
            for block in stage if isinstance(stage, nn.Sequential) else (stage,):
                x = self.through(block, x)
        return x

    def _post(self, x: Tensor) -> Tensor:
        if self.cls_token is None:
            return x
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        for block in self.post_network:
            x = self.through(block, x)
        return x

    def _box(self, height: int, width: int) -> Box:
        """Top, left, low and right of a box of a random share of the pooled grid."""
        rows, columns = height // self.pooling_scale, width // self.pooling_scale
        side = float(torch.rand(())) ** 0.5
        y, x = int(torch.randint(rows, ())), int(torch.randint(columns, ()))
        dy, dx = int(rows * side) // 2, int(columns * side) // 2
        return max(y - dy, 0), max(x - dx, 0), min(y + dy, rows), min(x + dx, columns)


def _pasted(x: Tensor, other: Tensor, box: Sequence[int]) -> Tensor:
    """`b y x c` with the places inside the box from the other tensor."""
    inside = torch.zeros(x.shape[1:3], dtype=torch.bool, device=x.device)
    inside[box[0] : box[2], box[1] : box[3]] = True
    return torch.where(inside[None, :, :, None], other, x)


def _on_grid(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Positions `1 y x c` on another grid."""
    old = (table.shape[1], table.shape[2])
    return resize_positions(table.flatten(1, 2), old, grid, prefix=0).unflatten(1, grid)


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
    pool: str = "token",
    return_dense: bool = True,
    mix_token: bool = True,
    pooling_scale: int = 2,
    ln_eps: float = 1e-5,
    bn_eps: float = 1e-5,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    num_classes: int = 1000,
) -> VOLO:
    """A VOLO.

    layers         outlookers, then transformer blocks of each further stage
    post_layers    "ca" for each class-attention block; None leaves the class token out
    pool           "token" classifies the class token, "avg" (and post_layers=None) the mean
    return_dense   logits of all tokens too: half of their maximum is added to the class logits
    mix_token      in training, a box of tokens is exchanged between pictures
    pooling_scale  how much coarser the transformers' grid is than the outlookers'
    dropout        after the positions
    drop_path      share of branches dropped in the last transformer, growing with depth; never
                   in outlookers
    """
    ratios = [mlp_ratio] * len(layers) if isinstance(mlp_ratio, int | float) else list(mlp_ratio)
    check_options(layers, embed_dims, num_heads, ratios, post_layers)
    check_grid(img_size, patch_size, pooling_scale, pool)
    outlook = (out_kernel, out_stride, out_padding)
    network: list[nn.Module] = [
        _stage(layers, place, embed_dims, num_heads, ratios, outlook, qkv_bias, ln_eps, drop_path)
        for place in range(len(layers))
    ]
    network.insert(1, Downsample(embed_dims[0], embed_dims[1], pooling_scale))
    width = embed_dims[-1]
    post: list[Block] = [
        ClassBlock(width, ClassAttention(width, num_heads[-1], qkv_bias), ratios[-1], ln_eps)
        for _ in post_layers or ()
    ]
    height, breadth = (side // patch_size // pooling_scale for side in sides(img_size))
    return VOLO(
        network,
        None if post_layers is None else post,
        PatchEmbed(in_channels, stem_hidden_dim, embed_dims[0], patch_size, bn_eps),
        dim=width,
        table=(height, breadth),
        pool=POOLS[pool] if post_layers is not None else "avg",
        pooling_scale=pooling_scale,
        num_classes=num_classes,
        return_dense=return_dense,
        mix_token=mix_token,
        drop=dropout,
        eps=ln_eps,
    )


def _stage(
    layers: Sequence[int],
    place: int,
    dims: Sequence[int],
    heads: Sequence[int],
    ratios: Sequence[float],
    outlook: tuple[int, int, int],
    qkv_bias: bool,
    eps: float,
    drop_path: float,
) -> nn.Sequential:
    """Outlookers for the first stage, transformer blocks for the others."""
    kernel, stride, padding = outlook
    dim, count, total = dims[place], heads[place], max(sum(layers) - 1, 1)
    blocks = []
    for number in range(sum(layers[:place]), sum(layers[: place + 1])):
        mixer: nn.Module
        if place:
            mixer, drop = SelfAttention(dim, count, qkv_bias), drop_path * number / total
        else:
            mixer, drop = OutlookAttention(dim, count, kernel, stride, padding, qkv_bias), 0.0
        blocks.append(Block(dim, mixer, ratios[place], eps, drop))
    return nn.Sequential(*blocks)


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
            about=f"ImageNet top-1 {_file.rsplit('_', 1)[1]} % at {_size} pixels"
            + (f", photos at {int(_size / _crop)} inside a black border" if _crop > 1 else ""),
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

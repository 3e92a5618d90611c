"""VOLO (arXiv 2106.13112): outlook attention on a fine grid, then attention on a coarse one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ....probe.mark import mark
from ...card import Card, Source, State, sides
from ...layers import (
    Block,
    Checkpointing,
    Mlp,
    drop_rates,
    init_weights,
    pooling,
    resize_positions,
)
from ...registry import Variant, register
from .blocks import (
    ClassAttention,
    ClassBlock,
    Downsample,
    OutlookAttention,
    SelfAttention,
    Stem,
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
        stem: Stem,
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
        init_weights(self, nn.Linear)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)

    def convert_state(self, state: State) -> State:
        """Resize a file's position table to this model's grid; new classes renew both heads."""
        table = state.get("pos_embed")
        if table is not None and table.ndim == 4:
            height, width = self.pos_embed.shape[1:3]
            state["pos_embed"] = _on_grid(table, (height, width))
        now = self.state_dict()
        weights = ("head.weight", "aux_head.weight")
        if all(w in state and w in now and state[w].shape != now[w].shape for w in weights):
            self.aux_head.reset_parameters()  # type: ignore[operator]
            state |= {name: now[name] for name in ("aux_head.weight", "aux_head.bias")}
        return state

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor, Box]:
        x = self.patch_embed(x).permute(0, 2, 3, 1)
        box: Box = NO_BOX
        if self.training and self.mix_token and self.return_dense:
            box = self._box(x.shape[1], x.shape[2])
            x = _pasted(x, x.flip(0), [side * self.pooling_scale for side in box])
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
    return resize_positions(table.flatten(1, 2), old, grid).unflatten(1, grid)


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
    check_grid(img_size, patch_size, pooling_scale)
    pooled, rates = pooling(pool), drop_rates(drop_path, layers)

    def block(s: int) -> Block:
        dim, drop = embed_dims[s], next(rates)
        mixer: nn.Module = (
            SelfAttention(dim, num_heads[s], qkv_bias)
            if s
            else OutlookAttention(dim, num_heads[s], out_kernel, out_stride, out_padding, qkv_bias)
        )
        mlp = Mlp(dim, int(dim * ratios[s]), drop=0.0)
        return Block(dim, mixer, mlp, ln_eps, drop if s else 0.0)

    def class_block() -> Block:
        attn = ClassAttention(width, num_heads[-1], qkv_bias)
        return ClassBlock(width, attn, Mlp(width, int(width * ratios[-1]), drop=0.0), ln_eps)

    width = embed_dims[-1]
    network: list[nn.Module] = [
        nn.Sequential(*(block(s) for _ in range(depth))) for s, depth in enumerate(layers)
    ]
    network.insert(1, Downsample(embed_dims[0], embed_dims[1], pooling_scale))
    post = None if post_layers is None else [class_block() for _ in post_layers]
    height, breadth = (side // patch_size // pooling_scale for side in sides(img_size))
    return VOLO(
        network,
        post,
        Stem(in_channels, stem_hidden_dim, embed_dims[0], patch_size, bn_eps),
        dim=width,
        table=(height, breadth),
        pool="avg" if post_layers is None else pooled,
        pooling_scale=pooling_scale,
        num_classes=num_classes,
        return_dense=return_dense,
        mix_token=mix_token,
        drop=dropout,
        eps=ln_eps,
    )


URL = "https://github.com/sail-sg/volo/releases/download/volo_1/{}.pth.tar"


def variant(
    name: str, build: Mapping[str, object], *, size: int, resize: int, top1: str, inside: int = 0
) -> Variant:
    """A row; the name that says the size, as timm's do, serves too.

    inside   the short side of the photo inside a black border, where the authors cropped so
    """
    short = name.removesuffix(f"_{size}")
    long = f"{short}_{size}"
    border = f", photos at {inside} inside a black border" if inside else ""
    return Variant(
        name,
        also=() if name == long else (long,),
        build=build,
        size=size,
        resize=resize,
        weights={
            "imagenet": Source(URL.format(f"{short.removeprefix('volo_')}_{size}_{top1}")),
            "sail_in1k": Source(hub=f"timm/{long}.sail_in1k", file="model.safetensors"),
        },
        about=f"ImageNet top-1 {top1} % at {size} pixels{border}",
    )


D1 = {
    "layers": (4, 4, 8, 2),
    "embed_dims": (192, 384, 384, 384),
    "num_heads": (6, 12, 12, 12),
    "mlp_ratio": 3.0,
    "stem_hidden_dim": 64,
}
D2 = {**D1, "embed_dims": (256, 512, 512, 512), "num_heads": (8, 16, 16, 16)}
D2 |= {"layers": (6, 4, 10, 4)}
D3 = {**D2, "layers": (8, 8, 16, 4)}
D4 = {**D3, "embed_dims": (384, 768, 768, 768), "num_heads": (12, 16, 16, 16)}
D5 = {**D4, "layers": (12, 12, 20, 4), "mlp_ratio": 4.0, "stem_hidden_dim": 128}
VARIANTS = (
    variant("volo_d1", D1, size=224, resize=233, top1="84.2"),
    variant("volo_d1_384", D1, size=384, resize=384, top1="85.2"),
    variant("volo_d2", D2, size=224, resize=233, top1="85.2"),
    variant("volo_d2_384", D2, size=384, resize=384, top1="86.0"),
    variant("volo_d3", D3, size=224, resize=233, top1="85.4"),
    variant("volo_d3_448", D3, size=448, resize=448, top1="86.3"),
    variant("volo_d4", D4, size=224, resize=233, top1="85.7"),
    variant("volo_d4_448", D4, size=448, resize=448, top1="86.79", inside=389),
    variant("volo_d5", D5, size=224, resize=233, top1="86.10"),
    variant("volo_d5_448", D5, size=448, resize=448, top1="87.0", inside=389),
    variant("volo_d5_512", D5, size=512, resize=512, top1="87.07", inside=445),
)
register(
    volo,
    Card(
        "VOLO",
        "VOLO: vision outlooker, arXiv 2106.13112",
        hidden=("network.0.*", "network.2.*", "network.3.*", "network.4.*"),
        heads=(
            "network.0.*.attn",
            "network.2.*.attn",
            "network.3.*.attn",
            "network.4.*.attn",
            "post_network.*.attn",
        ),
        prefix=1,
        classifier="head",
        interpolation="bicubic",
    ),
    VARIANTS,
)

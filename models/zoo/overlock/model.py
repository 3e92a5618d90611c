"""OverLoCK (arXiv 2502.20087): overview first, look closely next, with the authors' names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ....probe.errors import OptionError
from ...card import Card, Figure, Source, State
from ...layers import Checkpointing, drop_rates
from ...registry import Variant, register
from .blocks import RepConvBlock, downsample, stem
from .context_mixing import DynamicConvBlock
from .dilated import BN_EPS

PerStage = float | Sequence[float]


class ContextDownsample(nn.Module):
    """Features and context to half the size, each by a convolution of its own."""

    def __init__(self, inputs: int, out: int, context: int) -> None:
        super().__init__()
        self.x_proj = downsample(inputs, out)
        self.h_proj = downsample(context, context)

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return self.x_proj(x), self.h_proj(context)


class OverLoCK(Checkpointing, nn.Module):
    """Base network, overview network and focus network, which sees through the overview.

    In training with use_ds the result is {"main": logits, "aux": logits of the overview alone}.
    """

    def __init__(
        self,
        dims: Sequence[int],
        stages: Sequence[list[RepConvBlock]],
        focus: Sequence[list[DynamicConvBlock]],
        *,
        in_channels: int,
        projection: int,
        num_classes: int,
        use_ds: bool,
    ) -> None:
        super().__init__()
        context = dims[3] // 4
        self.patch_embed1 = stem(in_channels, dims[0])
        self.patch_embed2 = downsample(dims[0], dims[1])
        self.patch_embed3 = downsample(dims[1], dims[2])
        self.patch_embed4 = downsample(dims[2], dims[3])
        self.high_level_proj = nn.Conv2d(dims[3], context, 1)
        self.patch_embedx = ContextDownsample(dims[2], dims[3], context)
        for n, stage in enumerate(stages, 1):
            self.add_module(f"blocks{n}", nn.ModuleList(stage))
        self.sub_blocks3, self.sub_blocks4 = (nn.ModuleList(part) for part in focus)
        if use_ds:
            self.aux_head = nn.Sequential(
                nn.BatchNorm2d(dims[3], BN_EPS),
                nn.AdaptiveAvgPool2d(1),
                nn.Conv2d(dims[3], num_classes, 1),
            )
        self.head = nn.Sequential(
            nn.Conv2d(dims[3] + context, projection, 1, bias=False),
            nn.BatchNorm2d(projection, BN_EPS),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(projection, num_classes, 1),
        )

    def convert_state(self, state: State) -> State:
        """Without use_ds the file's auxiliary head is left out; new classes renew it too."""
        now = self.state_dict()
        if not hasattr(self, "aux_head"):
            return {name: x for name, x in state.items() if not name.startswith("aux_head.")}
        weights = ("head.4.weight", "aux_head.2.weight")
        if all(w in state and state[w].shape != now[w].shape for w in weights):
            self.aux_head[2].reset_parameters()  # type: ignore[operator]
            state |= {name: now[name] for name in ("aux_head.2.weight", "aux_head.2.bias")}
        return state

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        for n in (1, 2, 3):
            x = self._stage(n, x)
        overview = self._stage(4, x)
        logits = self.head(self.focus(x, self.high_level_proj(overview))).flatten(1)
        if self.training and hasattr(self, "aux_head"):
            return {"main": logits, "aux": self.aux_head(overview).flatten(1)}
        return logits

    def _stage(self, n: int, x: Tensor) -> Tensor:
        x = self.get_submodule(f"patch_embed{n}")(x)
        for block in self.get_submodule(f"blocks{n}").children():
            x = self.through(block, x)
        return x

    def focus(self, x: Tensor, prior: Tensor) -> Tensor:
        """The picture looked at again, the prior beside it in every block."""
        size = (x.shape[2], x.shape[3])
        wide = F.interpolate(prior, size=size, mode="bilinear", align_corners=False)
        context = wide
        for block in self.sub_blocks3:
            x, context = self.through(block, x, context, wide)
        x, context = self.patch_embedx(x, context)
        for block in self.sub_blocks4:
            x, context = self.through(block, x, context, prior)
        return x


def overlock(
    *,
    depth: Sequence[int] = (2, 2, 3, 2),
    sub_depth: Sequence[int] = (6, 2),
    embed_dim: Sequence[int] = (56, 112, 256, 336),
    kernel_size: int | Sequence[int] = (17, 15, 13, 7),
    mlp_ratio: PerStage = 4,
    sub_num_heads: int | Sequence[int] = (4, 6),
    sub_mlp_ratio: PerStage = 3,
    smk_size: int = 5,
    res_scale: bool = True,
    ls_init_value: float | Sequence[float | None] | None = (None, None, 1, 1),
    projection: int = 1024,
    use_ds: bool = True,
    deploy: bool = False,
    drop_path: float = 0.0,
    in_channels: int = 3,
    num_classes: int = 1000,
) -> OverLoCK:
    """An OverLoCK; lists have one entry a stage, of the focus network one for stages 3 and 4.

    kernel_size    side of the large kernels, in the focus network of static and dynamic ones
    sub_num_heads  half the heads of the dynamic kernels; smk_size: side of the small ones
    res_scale      layer scales multiply the shortcut, else the branch
    ls_init_value  start of the layer scales; None leaves them out
    projection     channels before the classifier; use_ds: an auxiliary head on the overview
    deploy         build the merged form, one convolution for each with dilated branches
    drop_path      share of dropped branches in the last block of each network, growing from 0
    Raises OptionError for lists of another length and widths that do not split.
    """
    dims, depths = per_stage(4, embed_dim=embed_dim), per_stage(4, depth=depth)
    if dims[3] % 4 or dims[0] % 2 or min(dims) < 4:
        raise OptionError(
            f"embed_dim={dims} has no halves for the stem or quarters for the context: make the "
            "first even and the last a multiple of 4"
        )
    kernels = per_stage(4, kernel_size=kernel_size)
    starts, ratios = per_stage(4, ls_init_value=ls_init_value), per_stage(4, mlp_ratio=mlp_ratio)
    sub_depths, heads = per_stage(2, sub_depth=sub_depth), per_stage(2, sub_num_heads=sub_num_heads)
    sub_ratios = per_stage(2, sub_mlp_ratio=sub_mlp_ratio)
    if min(sub_depths) < 1:
        raise OptionError(f"sub_depth={sub_depths} leaves a stage no block: give at least 1")
    rates, sub_rates = drop_rates(drop_path, depths), drop_rates(drop_path, sub_depths)
    how: dict[str, Any] = {"res_scale": res_scale, "deploy": deploy}

    def base(s: int) -> RepConvBlock:
        return RepConvBlock(
            dims[s], kernels[s], ratios[s], ls_init=starts[s], drop=next(rates), **how
        )

    def focused(s: int, n: int) -> DynamicConvBlock:
        return DynamicConvBlock(
            dims[s + 2],
            dims[3] // 4,
            kernels[s + 2],
            smk_size,
            heads[s],
            sub_ratios[s],
            ls_init=starts[s + 2],
            drop=next(sub_rates),
            first=s == n == 0,
            last=s == 1 and n == sub_depths[1] - 1,
            **how,
        )

    return OverLoCK(
        dims,
        [[base(s) for _ in range(depths[s])] for s in range(4)],
        [[focused(s, n) for n in range(sub_depths[s])] for s in range(2)],
        in_channels=in_channels,
        projection=projection,
        num_classes=num_classes,
        use_ds=use_ds,
    )


def per_stage(count: int, **named: Any) -> list[Any]:
    """One entry a stage, from a list of as many or one value for all.

    Raises OptionError for a list of another length.
    """
    ((name, value),) = named.items()
    values = list(value) if isinstance(value, Sequence) else [value] * count
    if len(values) != count:
        raise OptionError(
            f"{name}={values} has {len(values)} entries for {count} stages: give one a stage"
        )
    return values


RELEASE = "https://github.com/LMMMEng/OverLoCK/releases/download/v1/"
SIZES: dict[str, dict[str, object]] = {
    "overlock_xt": {},
    "overlock_t": {
        "depth": (4, 4, 6, 2),
        "sub_depth": (12, 2),
        "embed_dim": (64, 128, 256, 512),
        "sub_num_heads": (4, 8),
    },
    "overlock_s": {
        "depth": (6, 6, 8, 3),
        "sub_depth": (16, 3),
        "embed_dim": (64, 128, 320, 512),
        "sub_num_heads": (8, 16),
    },
    "overlock_b": {
        "depth": (8, 8, 10, 4),
        "sub_depth": (20, 4),
        "embed_dim": (80, 160, 384, 576),
        "sub_num_heads": (6, 9),
    },
}


def variant(name: str, *, top1: str, resize: int) -> Variant:
    """A row, of the network as trained or, `_reparam`, with its dilated branches merged."""
    size, merged = name.removesuffix("_reparam"), name.endswith("_reparam")
    file = f"{size}_in1k_224{'_reparam' * merged}.pth"
    return Variant(
        name,
        build={**SIZES[size], **({"deploy": True} if merged else {})},
        size=224,
        resize=resize,
        weights={"imagenet": Source(RELEASE + file)},
        about=f"ImageNet top-1 {top1} (README)" + ", dilated branches merged" * merged,
    )


register(
    overlock,
    Card(
        "OverLoCK",
        "OverLoCK: an overview-first-look-closely-next ConvNet with context-mixing dynamic "
        "kernels, arXiv 2502.20087",
        hidden=(
            "blocks1.*",
            "blocks2.*",
            "blocks3.*",
            "blocks4.*",
            "sub_blocks3.*",
            "sub_blocks4.*",
        ),
        heads=("sub_blocks3.*", "sub_blocks4.*"),
        classifier="head.4",
        interpolation="bicubic",
        shows=(
            Figure(
                "The overview prior",
                "norm",
                sites=("**:context",),
                about="What the first look hands to each block of the second: its length at "
                "each place.",
            ),
            Figure(
                "What the kernel of the centre reads",
                "centre",
                about="The weights that the middle of the picture predicted for its window: "
                "small kernels first, then large.",
            ),
        ),
    ),
    (
        variant("overlock_xt", top1="82.7", resize=242),
        variant("overlock_xt_reparam", top1="82.7", resize=242),
        variant("overlock_t", top1="84.2", resize=235),
        variant("overlock_t_reparam", top1="84.2", resize=235),
        variant("overlock_s", top1="84.8", resize=235),
        variant("overlock_s_reparam", top1="84.8", resize=235),
        variant("overlock_b", top1="85.1", resize=229),
        variant("overlock_b_reparam", top1="85.1", resize=229),
    ),
)

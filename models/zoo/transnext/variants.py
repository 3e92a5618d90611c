"""The published TransNeXts."""

from __future__ import annotations

from collections.abc import Mapping

from ...card import Source
from ...registry import Variant

MICRO: dict[str, object] = {
    "embed_dims": (48, 96, 192, 384),
    "num_heads": (2, 4, 8, 16),
    "depths": (2, 2, 15, 2),
}
TINY = {**MICRO, "embed_dims": (72, 144, 288, 576), "num_heads": (3, 6, 12, 24)}
SMALL = {**TINY, "depths": (5, 5, 22, 5)}
BASE: dict[str, object] = {
    "embed_dims": (96, 192, 384, 768),
    "num_heads": (4, 8, 16, 32),
    "depths": (5, 5, 23, 5),
}
FINE_TUNED = {"pretrain_size": 224}
AGGREGATED = {"sr_ratios": (16, 8, 4, 2), "window_size": (3, 3, 3, 3)}
WARPED = "; its authors warp photos to the whole square, where here the middle is cropped"


def variant(
    name: str, build: Mapping[str, object], file: str, *, size: int = 224, about: str
) -> Variant:
    """A row; file: on the hub, but for its ending, and of its repository with hyphens.

    Published weights say which size they were first trained at.
    """
    repository = f"DaiShiResearch/{file.replace('_', '-')}"
    pretrained = build.get("pretrain_size", size)
    source = Source(hub=repository, file=f"{file}.pth", hyper={"pretrain_size": pretrained})
    resize = size if size >= 384 else int(size / 0.875)
    return Variant(
        name, build=build, size=size, resize=resize, weights={"imagenet": source}, about=about
    )


VARIANTS = (
    variant("transnext_micro", MICRO, "transnext_micro_224_1k", about="ImageNet top-1 82.5 %"),
    variant("transnext_tiny", TINY, "transnext_tiny_224_1k", about="ImageNet top-1 84.0 %"),
    variant("transnext_small", SMALL, "transnext_small_224_1k", about="ImageNet top-1 84.7 %"),
    variant("transnext_base", BASE, "transnext_base_224_1k", about="ImageNet top-1 84.8 %"),
    variant(
        "transnext_small_384",
        {**SMALL, **FINE_TUNED},
        "transnext_small_384_1k_ft_1k",
        size=384,
        about=f"ImageNet top-1 86.0 %, fine-tuned at 384{WARPED}",
    ),
    variant(
        "transnext_base_384",
        {**BASE, **FINE_TUNED},
        "transnext_base_384_1k_ft_1k",
        size=384,
        about=f"ImageNet top-1 86.2 %, fine-tuned at 384{WARPED}",
    ),
    variant(
        "transnext_micro_AAAA",
        {**MICRO, **AGGREGATED},
        "transnext_micro_AAAA_256_1k",
        size=256,
        about="ImageNet top-1 82.6 %; aggregated attention in all four stages",
    ),
)

"""The published MaxViTs (arXiv 2204.01697): converted from TensorFlow (tf), and timm's own (rw)."""

from __future__ import annotations

from collections.abc import Mapping

from ...card import Source
from ...registry import Variant

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def hub(name: str, tag: str) -> Source:
    """timm's file; that of "in21k" has 21843 classes: give num_classes."""
    card = {"labels": ""} if tag == "in21k" else {}
    return Source(hub=f"timm/{name}.{tag}", file="model.safetensors", card=card)


def tf(name: str, build: Mapping[str, object], *, size: int, tags: tuple[str, ...]) -> Variant:
    """A row of converted weights; "in1k" of the hub is "imagenet" here."""
    return Variant(
        name,
        build=build,
        size=size,
        resize=235 if size == 224 else size,
        weights={"imagenet" if tag == "in1k" else tag: hub(name, tag) for tag in tags},
        card={} if size == 224 else HALF,
    )


def rw(name: str, build: Mapping[str, object], *, size: int, resize: int, tag: str = "") -> Variant:
    """A row of timm's own; no weights are published where there is no tag."""
    return Variant(
        name,
        build={"layout": "rw", **build},
        size=size,
        resize=resize,
        weights={"imagenet": hub(name, tag)} if tag else {},
        about="" if tag else "no published weights",
        card=HALF,
    )


TINY: dict[str, object] = {
    "stem_width": (64, 64),
    "embed_dim": (64, 128, 256, 512),
    "depths": (2, 2, 5, 2),
}
SMALL = {**TINY, "embed_dim": (96, 192, 384, 768)}
BASE = {**SMALL, "depths": (2, 6, 14, 2)}
LARGE = {**BASE, "stem_width": (128, 128), "embed_dim": (128, 256, 512, 1024)}
XLARGE = {**BASE, "stem_width": (192, 192), "embed_dim": (192, 384, 768, 1536)}

RW_TINY = {**TINY, "stem_width": (32, 64)}
RW_PICO = {**TINY, "stem_width": (24, 32), "embed_dim": (32, 64, 128, 256)}
RW_NANO = {**RW_TINY, "depths": (1, 2, 3, 1)}
RMLP = {"rel_pos": "mlp"}
RMLP_SMALL = {**SMALL, "stem_width": (32, 64), **RMLP, "layer_scale_init": 1e-6}
RMLP_BASE = {**BASE, "stem_width": (32, 64), **RMLP, "head_hidden": 768}

IN1K = ("in1k",)
BOTH = ("in1k", "in21k_ft_in1k")
SW = "sw_in1k"
IN12K = "sw_in12k_ft_in1k"
VARIANTS = (
    tf("maxvit_tiny_tf_224", TINY, size=224, tags=IN1K),
    tf("maxvit_tiny_tf_384", TINY, size=384, tags=IN1K),
    tf("maxvit_tiny_tf_512", TINY, size=512, tags=IN1K),
    tf("maxvit_small_tf_224", SMALL, size=224, tags=IN1K),
    tf("maxvit_small_tf_384", SMALL, size=384, tags=IN1K),
    tf("maxvit_small_tf_512", SMALL, size=512, tags=IN1K),
    tf("maxvit_base_tf_224", BASE, size=224, tags=("in1k", "in21k")),
    tf("maxvit_base_tf_384", BASE, size=384, tags=BOTH),
    tf("maxvit_base_tf_512", BASE, size=512, tags=BOTH),
    tf("maxvit_large_tf_224", LARGE, size=224, tags=("in1k", "in21k")),
    tf("maxvit_large_tf_384", LARGE, size=384, tags=BOTH),
    tf("maxvit_large_tf_512", LARGE, size=512, tags=BOTH),
    tf("maxvit_xlarge_tf_224", XLARGE, size=224, tags=("in21k",)),
    tf("maxvit_xlarge_tf_384", XLARGE, size=384, tags=("in21k_ft_in1k",)),
    tf("maxvit_xlarge_tf_512", XLARGE, size=512, tags=("in21k_ft_in1k",)),
    rw("maxvit_pico_rw_256", RW_PICO, size=256, resize=269),
    rw("maxvit_nano_rw_256", RW_NANO, size=256, resize=269, tag=SW),
    rw("maxvit_tiny_rw_224", RW_TINY, size=224, resize=235, tag=SW),
    rw("maxvit_tiny_rw_256", RW_TINY, size=256, resize=269),
    rw("maxvit_rmlp_pico_rw_256", {**RW_PICO, **RMLP}, size=256, resize=269, tag=SW),
    rw("maxvit_rmlp_nano_rw_256", {**RW_NANO, **RMLP}, size=256, resize=269, tag=SW),
    rw("maxvit_rmlp_tiny_rw_256", {**RW_TINY, **RMLP}, size=256, resize=269, tag=SW),
    rw("maxvit_rmlp_small_rw_224", RMLP_SMALL, size=224, resize=248, tag=SW),
    rw("maxvit_rmlp_small_rw_256", RMLP_SMALL, size=256, resize=269),
    rw("maxvit_rmlp_base_rw_224", RMLP_BASE, size=224, resize=235, tag=IN12K),
    rw("maxvit_rmlp_base_rw_384", RMLP_BASE, size=384, resize=384, tag=IN12K),
)

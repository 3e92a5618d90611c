"""The published MOATs (arXiv 2210.01820), with and without position embedding."""

from __future__ import annotations

from collections.abc import Mapping

from ...card import Source
from ...registry import Variant
from .names import averaged

PLACE = "https://storage.googleapis.com/gresearch/tf-deeplab/checkpoint"
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

TINY_0: Mapping[str, object] = {"stem_size": (32, 32), "hidden_size": (32, 64, 128, 256)}
TINY_1 = {"stem_size": (40, 40), "hidden_size": (40, 80, 160, 320)}
TINY_2 = {"stem_size": (56, 56), "hidden_size": (56, 112, 224, 448)}
TINY_3 = {"stem_size": (80, 80), "hidden_size": (80, 160, 320, 640), "survival_prob": 0.9}
DEEP = {"num_blocks": (2, 6, 14, 2), "survival_prob": 0.7}
DEEPER = {"num_blocks": (2, 12, 28, 2)}
WIDTHS = {"stem_size": (64, 64), "hidden_size": (96, 192, 384, 768)}
MOAT_0 = {**WIDTHS, "survival_prob": 0.8}
MOAT_1 = {**WIDTHS, **DEEP}
MOAT_2 = {"stem_size": (128, 128), "hidden_size": (128, 256, 512, 1024), **DEEP}
MOAT_3 = {**DEEPER, "stem_size": (160, 160), "hidden_size": (160, 320, 640, 1280),
          "survival_prob": 0.4}  # fmt: skip
MOAT_4 = {**DEEPER, "stem_size": (256, 256), "hidden_size": (256, 512, 1024, 2048),
          "survival_prob": 0.3}  # fmt: skip


def row(name: str, build: Mapping[str, object], training: str, top1: float) -> Variant:
    """A variant, its checkpoint's plain variables and, as another tag, their moving averages.

    training   the part of the checkpoint's name that says data and size
    """
    size, bare = int(training.rsplit("_", 1)[1]), name.endswith("_no_pe")
    base, kind = name.removesuffix("_no_pe"), "wo" if bare else "w"
    url = f"{PLACE}/{base}_{training}_{kind}_position_embedding.tar.gz"
    told = f"{base}_pretrain_{size}_1k" if size < 300 else f"{base}_finetune_{size}_22k"
    also = "_no_pe_".join(told.rsplit("_", 1)) if bare else told  # the authors' get_model
    return Variant(
        name,
        also=(also,),
        build={**build, "relative_position_embedding_type": None} if bare else build,
        size=size,
        resize=size if size > 224 else 256,
        weights={"imagenet": Source(url), "imagenet_average": Source(url, convert=averaged)},
        about=f"top-1 {top1} % at {size} in the paper; resize and interpolation before the crop "
        "are not published and assumed here",
        card={} if size < 300 else HALF,
    )


K1, K1_TINY = "imagenet_1k_224", "imagenet_1k_256"
K22, K22_LARGE = "imagenet_22k_and_1k_384", "imagenet_22k_and_1k_512"
VARIANTS = (
    row("tiny_moat0", TINY_0, K1_TINY, 76.6),
    row("tiny_moat0_no_pe", TINY_0, K1_TINY, 76.0),
    row("tiny_moat1", TINY_1, K1_TINY, 79.2),
    row("tiny_moat1_no_pe", TINY_1, K1_TINY, 78.9),
    row("tiny_moat2", TINY_2, K1_TINY, 81.7),
    row("tiny_moat2_no_pe", TINY_2, K1_TINY, 81.3),
    row("tiny_moat3", TINY_3, K1_TINY, 83.3),
    row("tiny_moat3_no_pe", TINY_3, K1_TINY, 83.0),
    row("moat0", MOAT_0, K1, 83.3),
    row("moat0_no_pe", MOAT_0, K1, 83.0),
    row("moat1", MOAT_1, K1, 84.2),
    row("moat1_no_pe", MOAT_1, K1, 84.1),
    row("moat2", MOAT_2, K22, 87.5),
    row("moat2_no_pe", MOAT_2, K22, 87.2),
    row("moat3", MOAT_3, K22_LARGE, 88.4),
    row("moat3_no_pe", MOAT_3, K22_LARGE, 88.2),
    row("moat4", MOAT_4, K22_LARGE, 89.1),
    row("moat4_no_pe", MOAT_4, K22_LARGE, 88.9),
)

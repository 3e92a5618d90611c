"""HRNetV2-OCR+PSA and a pose network of its blocks (arXiv 2107.00782), official names."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ....probe.errors import OptionError
from ...card import Card, Figure
from ...layers.gates import Kind
from ...registry import Variant, register
from .hrnet import HighResolutionNet, Upsampling
from .ocr import OcrBlock


class OcrNet(Upsampling, nn.Module):
    """Scores of classes at every pixel, `b k y x`; with `return_aux` also those of the guess."""

    def __init__(
        self, backbone: HighResolutionNet, ocr: OcrBlock, *, align_corners: bool, return_aux: bool
    ) -> None:
        super().__init__()
        self.backbone, self.ocr = backbone, ocr
        self.align_corners, self.return_aux = align_corners, return_aux

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        scores, guess = self.ocr(self.backbone(x))
        whole = self.resized(scores, x.shape[-2:])
        if not self.return_aux:
            return whole
        return {"logits": whole, "aux": self.resized(guess, x.shape[-2:])}


class PoseNet(nn.Module):
    """A heat map for each keypoint, `b k y x`, at a quarter of the picture's size."""

    def __init__(self, backbone: HighResolutionNet, keypoints: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.final_layer = nn.Conv2d(backbone.out_channels, keypoints, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.final_layer(self.backbone(x))


def psa_hrnet_ocr(
    *,
    psa: Kind | None = "s",
    width: int = 48,
    blocks_per_branch: int | Sequence[int] = 4,
    modules: Sequence[int] = (1, 4, 3),
    stage1_blocks: int = 4,
    ocr_mid_channels: int = 512,
    ocr_key_channels: int = 256,
    dropout: float = 0.05,
    align_corners: bool = False,
    return_aux: bool = False,
    in_channels: int = 3,
    num_classes: int = 19,
    norm_eps: float = 1e-5,
) -> OcrNet:
    """An HRNet with polarized attention and OCR.

    psa                "s" (one gate behind the other), "p" (side by side), None for neither
    width              channels of the largest branch; those of the others double
    blocks_per_branch  one for all or one for each of the stages 2, 3 and 4
    modules            of the stages 2, 3 and 4
    stage1_blocks      bottlenecks of the first stage
    ocr_mid_channels   of features that classes gather; ocr_key_channels: of queries and keys
    dropout            share of channels left out behind the context, in training
    align_corners      of every bilinear resizing
    return_aux         also return the scores of the first guess, which the training's second
                       loss reads: {"logits", "aux"}
    """
    _check_share("dropout", dropout)
    backbone = _backbone(
        psa, width, blocks_per_branch, modules, stage1_blocks, align_corners, in_channels, norm_eps
    )
    ocr = OcrBlock(
        backbone.out_channels,
        ocr_mid_channels,
        ocr_key_channels,
        num_classes,
        dropout=dropout,
        eps=norm_eps,
    )
    return OcrNet(backbone, ocr, align_corners=align_corners, return_aux=return_aux)


def psa_pose(
    *,
    psa: Kind | None = "p",
    width: int = 48,
    blocks_per_branch: int | Sequence[int] = 4,
    modules: Sequence[int] = (1, 4, 3),
    stage1_blocks: int = 4,
    align_corners: bool = False,
    in_channels: int = 3,
    num_classes: int = 17,
    norm_eps: float = 1e-5,
) -> PoseNet:
    """Heat maps of `num_classes` keypoints from the largest branch; the rest as `psa_hrnet_ocr`."""
    backbone = _backbone(
        psa,
        width,
        blocks_per_branch,
        modules,
        stage1_blocks,
        align_corners,
        in_channels,
        norm_eps,
        join=False,
    )
    return PoseNet(backbone, num_classes)


def _backbone(
    psa: Kind | None,
    width: int,
    blocks: int | Sequence[int],
    modules: Sequence[int],
    stage1_blocks: int,
    align_corners: bool,
    in_channels: int,
    eps: float,
    join: bool = True,
) -> HighResolutionNet:
    depths = [blocks] * 3 if isinstance(blocks, int) else list(blocks)
    for name, counts in (("modules", list(modules)), ("blocks_per_branch", depths)):
        if len(counts) != 3 or min(counts) < 1:
            raise OptionError(
                f"{name}={tuple(counts)} was given for the stages 2, 3 and 4 of an HRNet: give "
                "three numbers, 1 or more each"
            )
    if width < 1 or stage1_blocks < 1:
        raise OptionError(
            f"width={width} and stage1_blocks={stage1_blocks} were asked of an HRNet: give 1 or "
            "more of each"
        )
    return HighResolutionNet(
        psa=psa,
        width=width,
        blocks_per_branch=depths,
        modules=modules,
        stage1_blocks=stage1_blocks,
        align_corners=align_corners,
        in_channels=in_channels,
        eps=eps,
        join=join,
    )


def _check_share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise OptionError(f"{name}={value} is no share: give at least 0 and less than 1")


PAPER = "Polarized self-attention: towards high-quality pixel-wise regression, arXiv 2107.00782"
CITYSCAPES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
    "motorcycle", "bicycle",
)  # fmt: skip
KEYPOINTS = (
    "nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder",
    "left elbow", "right elbow", "left wrist", "right wrist", "left hip", "right hip", "left knee",
    "right knee", "left ankle", "right ankle",
)  # fmt: skip
SHOWS = (
    Figure(
        "Where the statistics of channels are taken",
        "channels",
        sites=("**.deattn:map",),
        about="The softmax of the one query whose values decide the gate of channels.",
    ),
    Figure(
        "Gates of places",
        "channels",
        sites=("**.deattn:spatial_gate",),
        about="What every channel is multiplied by at a place: 0.5 says nothing. Of blocks side "
        'by side, "p", it lies between 0.5 and 0.731; of "s" on both sides of 0.5.',
    ),
    Figure(
        "Gates of channels",
        "sorted",
        sites=("**.deattn:channel_gate",),
        about="What each channel is multiplied by everywhere, the largest first.",
    ),
    Figure(
        "Evenness of the query",
        "heads",
        sites=("**.deattn:map",),
        methods=("attention_entropy,normalised=true",),
        about="Entropy over that of an even picture, which has 1.",
    ),
)
HRNET = ("backbone.layer1.*", "backbone.stage?.*.relu.*")
LINKS = {"s": "uyzzfmkx8p2ipcznpzdtf14ng63s65sq", "p": "if90kw6r66q2y6c5xparflhnbwi6c2yi"}


def segmentation(name: str, kind: Kind, score: str) -> Variant:
    """A row: one kind of block, its score on Cityscapes."""
    return Variant(
        name,
        also=(f"{name}_w48", f"hrnetv2_ocr_psa_{kind}"),
        build={"psa": kind},
        about=f"Cityscapes val mIoU {score} %; weights behind a form at "
        f"https://cmu.box.com/s/{LINKS[kind]}: give the file as weights",
    )


def pose(name: str, kind: Kind, size: tuple[int, int], score: str) -> Variant:
    """A row: one kind of block at one size, its score on COCO."""
    return Variant(
        name,
        build={"psa": kind},
        size=size,
        resize=min(size),
        about=f"published COCO AP {score} % as UDP-Pose-PSA, HRNet-W48; neither code nor weights "
        "were published: the head, a 1 x 1 map of the largest branch, is assumed as HRNet's own",
    )


register(
    psa_hrnet_ocr,
    Card(
        "HRNetV2-OCR+PSA",
        PAPER,
        hidden=(*HRNET, "ocr.conv3x3_ocr", "ocr.ocr_distri_head"),
        heads=("ocr.ocr_gather_head", "ocr.ocr_distri_head.object_context_block"),
        classifier="ocr.cls_head",
        size=(1024, 2048),
        resize=1024,
        labels=CITYSCAPES,
        shows=SHOWS,
    ),
    (
        segmentation("psa_hrnet_ocr_s", "s", "86.72"),
        segmentation("psa_hrnet_ocr_p", "p", "86.95"),
    ),
)
register(
    psa_pose,
    Card(
        "UDP-Pose-PSA",
        PAPER,
        hidden=HRNET,
        classifier="final_layer",
        labels=KEYPOINTS,
        shows=SHOWS,
    ),
    (
        pose("psa_pose_p_256x192", "p", (256, 192), "78.9"),
        pose("psa_pose_p_384x288", "p", (384, 288), "79.5"),
        pose("psa_pose_s_384x288", "s", (384, 288), "79.4"),
    ),
)

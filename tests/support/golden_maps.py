"""Maps of golden cases, by the names that the cases give them."""

from __future__ import annotations

import torch.nn.functional as F
from methods_golden import Case, Reading, read, run, walk
from torch import Tensor, nn

from limelight.probe.attribution.registry import use
from limelight.probe.targets.target import label

SITE_METHODS = {
    "gradient": "gradient",
    "gradient_sum": "gradient_sum",
    "grad_cam": "gradcam",
    "linear_approx": "linear_approx",
    "norm_grad": "normgrad",
    "norm_grad_selective": "normgrad_selective",
    "norm_grad_proper": "normgrad_proper",
}


CAMS = {
    "GradCAM": "gradcam",
    "GradCAMPlusPlus": "gradcam_plus_plus",
    "HiResCAM": "hirescam",
    "LayerCAM": "layercam",
    "XGradCAM": "xgradcam",
    "GradCAMElementWise": "gradcam_elementwise",
    "EigenCAM": "eigencam",
    "EigenGradCAM": "eigengradcam",
}


def _as_cam(values: Tensor, size: int) -> Tensor:
    """As pytorch-grad-cam shows a map: [0, 1], then bilinear; scaled once more over the layers."""
    low = values.clamp(min=0) - values.clamp(min=0).min()
    scaled = (low / (low.max() + 1e-7))[:, None]
    large = F.interpolate(scaled, (size, size), mode="bilinear", align_corners=False)[:, 0]
    return (large - large.min()) / (large.max() - large.min() + 1e-7)


def cam_maps(golden: Case, readings: dict[str, Reading], size: int) -> dict[str, Tensor]:
    """Every CAM; eigenvectors are equal up to their sign, and take the stored map's."""
    maps = {}
    for key in [key for key in golden.telling if key.startswith("cam.")]:
        _, kind, site = key.split(".", 2)
        values = readings[site](use(CAMS[kind]))
        if kind.startswith("Eigen"):
            signed = readings[site](use(CAMS[kind], relu=False))
            values = min(
                (signed, -signed), key=lambda v: golden.off(key, _as_cam(v, size))
            )  # fmt: skip
        maps[key] = _as_cam(values, size)
    return maps


def captum_maps(golden: Case, net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    target = label(golden.about["target"])
    reading = read(net, x, target, [])["input"]
    covered = run(use("occlusion", window=16, stride=16, batch=4), net, x, target)
    return {
        "captum.Saliency": reading(use("gradient")),
        "captum.InputXGradient": reading(use("input_x_gradient")),
        "captum.IntegratedGradients": walk(use("integrated_gradients", n=16)(), net, x, target),
        "captum.Occlusion": 3 * covered,
    }

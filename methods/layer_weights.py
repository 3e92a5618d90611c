"""Published weights of layers for `combine`, by model and site, as data.

Source: the benchmark script of "There and Back Again", arXiv 2004.02866; how `accuracy`,
`activation` and `activation_in` were estimated is not stated there. `pointing_accuracy` is the
pointing accuracy of each method at each layer.
"""

from __future__ import annotations

VGG16 = ("features.3", "features.8", "features.15", "features.22", "features.29")
RESNET50 = ("layer1", "layer2", "layer3", "layer4")
MODELS = {"VGG16": VGG16, "ResNet-50": RESNET50}

Row = tuple[float, ...]

TABLES: dict[str, dict[str, Row]] = {
    "accuracy": {
        "VGG16": (0.03269, 0.12526, 0.21196, 0.30409, 0.32599),
        "ResNet-50": (0.07776, 0.11202, 0.19604, 0.61418),
    },
    "activation": {
        "VGG16": (0.21194, 0.32256, 0.39071, 0.06749, 0.00730),
        "ResNet-50": (0.16987, 0.19502, 0.19306, 0.44204),
    },
    "activation_in": {
        "VGG16": (0.15331, 0.21969, 0.30785, 0.18127, 0.13788),
        "ResNet-50": (0.08763, 0.07124, 0.04933, 0.79181),
    },
}

POINTING: dict[str, dict[str, Row]] = {
    "contrastive_excitation_backprop": {
        "VGG16": (0.760, 0.757, 0.757, 0.777, 0.821),
        "ResNet-50": (0.881, 0.893, 0.907, 0.897),
    },
    "excitation_backprop": {
        "VGG16": (0.738, 0.738, 0.737, 0.753, 0.776),
        "ResNet-50": (0.821, 0.833, 0.845, 0.846),
    },
    "gradcam": {
        "VGG16": (0.591, 0.584, 0.554, 0.582, 0.866),
        "ResNet-50": (0.545, 0.529, 0.663, 0.904),
    },
    "gradient": {
        "VGG16": (0.764, 0.781, 0.806, 0.821, 0.395),
        "ResNet-50": (0.786, 0.839, 0.828, 0.180),
    },
    "gradient_sum": {
        "VGG16": (0.755, 0.768, 0.742, 0.664, 0.556),
        "ResNet-50": (0.796, 0.800, 0.704, 0.067),
    },
    "guided_backprop": {
        "VGG16": (0.754, 0.726, 0.706, 0.731, 0.255),
        "ResNet-50": (0.769, 0.777, 0.823, 0.180),
    },
    "linear_approx": {
        "VGG16": (0.815, 0.830, 0.831, 0.846, 0.865),
        "ResNet-50": (0.833, 0.855, 0.856, 0.902),
    },
    "normgrad": {
        "VGG16": (0.789, 0.810, 0.819, 0.819, 0.777),
        "ResNet-50": (0.819, 0.840, 0.846, 0.788),
    },
    "normgrad_selective": {
        "VGG16": (0.814, 0.814, 0.819, 0.848, 0.860),
        "ResNet-50": (0.823, 0.863, 0.869, 0.874),
    },
    "meta": {
        "VGG16": (0.790, 0.812, 0.818, 0.819, 0.782),
        "ResNet-50": (0.816, 0.847, 0.858, 0.809),
    },
    "meta:normgrad_selective": {
        "VGG16": (0.815, 0.813, 0.816, 0.847, 0.861),
        "ResNet-50": (0.818, 0.863, 0.881, 0.886),
    },
}

"""The zoo: models by name with their weights, photos as inputs, class names."""

from . import (
    alexnet,
    attention_only,
    biformer,
    biformer_nchw,
    convit,
    efficientnet_lite,
    gla,
    halonet,
    hornet,
    llama,
    maxvit,
    nat,
    resnet,
    vgg,
    vig,
    vig_h,
    vit,
    vit_torchvision,
    volo,
)
from .card import Card
from .images import images, read
from .labels import labels
from .preprocess import preprocess
from .registry import list_models, load

from . import adapters  # isort: skip  # last: it reads the cards of all the others

__all__ = [
    "Card",
    "adapters",
    "alexnet",
    "attention_only",
    "biformer",
    "biformer_nchw",
    "convit",
    "efficientnet_lite",
    "gla",
    "halonet",
    "hornet",
    "images",
    "labels",
    "list_models",
    "llama",
    "load",
    "maxvit",
    "nat",
    "preprocess",
    "read",
    "resnet",
    "vgg",
    "vig",
    "vig_h",
    "vit",
    "vit_torchvision",
    "volo",
]

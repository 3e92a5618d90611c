"""The zoo: models by name with their weights, photos as inputs, class names."""

from .card import Card
from .inputs import example, images, labels, preprocess, read
from .registry import list_models, load
from .zoo import (
    activator,
    alexnet,
    convit,
    hornet,
    karat,
    llama,
    nat,
    ninformer,
    resnet,
    s2aformer,
    sigma,
    sigmoid_attention,
    vgg,
)
from .zoo.attention_only import model as attention_only
from .zoo.biformer import channels_first as biformer_nchw
from .zoo.biformer import model as biformer
from .zoo.efficientnet_lite import model as efficientnet_lite
from .zoo.ffnet import model as ffnet
from .zoo.garnet import discriminators as garnet_discriminators
from .zoo.garnet import model as garnet
from .zoo.gla import model as gla
from .zoo.halonet import model as halonet
from .zoo.litv2 import model as litv2
from .zoo.maxvit import model as maxvit
from .zoo.moat import model as moat
from .zoo.msguided import model as msguided
from .zoo.oat import variants as oat
from .zoo.orchid import model as orchid
from .zoo.overlock import model as overlock
from .zoo.psa import model as psa
from .zoo.reid_lba import model as reid_lba
from .zoo.relationnet2 import model as relationnet2
from .zoo.seerattention import model as seerattention
from .zoo.sentence_attention import model as sentence_attention
from .zoo.sess import model as sess
from .zoo.sparsifiner import model as sparsifiner
from .zoo.transnext import model as transnext
from .zoo.ulsam import mobilenet_v1, mobilenet_v2
from .zoo.vig import hierarchical as vig_h
from .zoo.vig import model as vig
from .zoo.vit import model as vit
from .zoo.vit import torchvision as vit_torchvision
from .zoo.volo import model as volo
from .zoo.zoology import model as zoology

from .adapters import zoo as adapters  # isort: skip  # last: it reads the cards of all the others

__all__ = [
    "Card",
    "activator",
    "adapters",
    "alexnet",
    "attention_only",
    "biformer",
    "biformer_nchw",
    "convit",
    "efficientnet_lite",
    "example",
    "ffnet",
    "garnet",
    "garnet_discriminators",
    "gla",
    "halonet",
    "hornet",
    "images",
    "karat",
    "labels",
    "list_models",
    "litv2",
    "llama",
    "load",
    "maxvit",
    "moat",
    "mobilenet_v1",
    "mobilenet_v2",
    "msguided",
    "nat",
    "ninformer",
    "oat",
    "orchid",
    "overlock",
    "preprocess",
    "psa",
    "read",
    "reid_lba",
    "relationnet2",
    "resnet",
    "s2aformer",
    "seerattention",
    "sentence_attention",
    "sess",
    "sigma",
    "sigmoid_attention",
    "sparsifiner",
    "transnext",
    "vgg",
    "vig",
    "vig_h",
    "vit",
    "vit_torchvision",
    "volo",
    "zoology",
]

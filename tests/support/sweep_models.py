"""Foreign models of the sweep: small configurations, random weights, nothing downloaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from foreign import import_foreign, import_torchvision
from torch import nn


class Case(NamedTuple):
    """A model to build, its input, and what `sweep.probe_model` must know of it."""

    build: Callable[[], nn.Module]
    example: Callable[[], Any]
    options: Mapping[str, Any] = MappingProxyType({})


TORCHVISION = {  # name: side of the input
    "alexnet": 96, "convnext_tiny": 64, "densenet121": 64, "efficientnet_b0": 64, "googlenet": 96,
    "inception_v3": 128, "maxvit_t": 224, "mnasnet0_5": 64, "mobilenet_v2": 64,
    "mobilenet_v3_small": 64, "regnet_y_400mf": 64, "resnet18": 64, "shufflenet_v2_x0_5": 64,
    "squeezenet1_1": 96, "swin_t": 96, "swin_v2_t": 96, "vgg11_bn": 64, "vit_b_32": 224,
    "segmentation.deeplabv3_resnet50": 64, "segmentation.fcn_resnet50": 64,
    "segmentation.lraspp_mobilenet_v3_large": 64,
}  # fmt: skip
TIMM = {
    "beit_base_patch16_224": 224, "cait_xxs24_224": 224, "coatnet_0_rw_224": 224,
    "convnext_atto": 64, "crossvit_tiny_240": 240, "davit_tiny": 64,
    "deit_tiny_distilled_patch16_224": 224, "densenet121": 64, "dla34": 64, "edgenext_xx_small": 64,
    "efficientformer_l1": 224, "efficientnet_b0": 64, "eva02_tiny_patch14_224": 224,
    "fastvit_t8": 64, "focalnet_tiny_srf": 64, "ghostnet_050": 64, "hiera_tiny_224": 224,
    "hrnet_w18_small": 64, "inception_v3": 128, "levit_128s": 224, "maxvit_nano_rw_256": 256,
    "mixer_s32_224": 224, "mobilenetv4_conv_small": 64, "mobilevit_xxs": 64, "mvitv2_tiny": 224,
    "nextvit_small": 64, "nfnet_l0": 64, "pit_ti_224": 224, "poolformer_s12": 64,
    "regnety_002": 64, "repvgg_a0": 64, "resmlp_12_224": 224, "resnet18": 64,
    "swin_tiny_patch4_window7_224": 224, "tresnet_m": 64, "twins_svt_small": 64,
    "vit_small_patch14_reg4_dinov2.lvd142m": 98, "vit_tiny_patch16_224": 224, "volo_d1_224": 224,
    "xcit_nano_12_p16_224": 224, "coat_lite_tiny": 224, "convit_tiny": 224, "gcvit_xxtiny": 224,
    "nest_tiny": 224, "sequencer2d_s": 224, "tiny_vit_5m_224": 224, "tnt_s_legacy_patch16_224": 224,
}  # fmt: skip
UNFUSED = ("swin_tiny_patch4_window7_224", "vit_tiny_patch16_224", "mobilevit_xxs", "levit_128s")

_BLOCKS = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
_PATCHES = _BLOCKS | {"image_size": 32, "patch_size": 8}
_WINDOWS = {
    "image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4],
    "window_size": 4,
}  # fmt: skip
_STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
_PYRAMID = _STAGES | {"num_attention_heads": [1, 2, 2, 4]}
_DENSE = _PATCHES | {
    "num_hidden_layers": 4, "image_size": 64, "patch_size": 16, "neck_hidden_sizes": [8, 8, 8, 8],
    "fusion_hidden_size": 8, "backbone_out_indices": [0, 1, 2, 3],
}  # fmt: skip
_IMAGES = "ForImageClassification"
HF_VISION = {  # class: side, attention, configuration, fields
    f"ViT{_IMAGES}": (32, "sdpa eager", "ViT", _PATCHES),
    f"DeiT{_IMAGES}WithTeacher": (32, "sdpa eager", "DeiT", _PATCHES),
    f"Dinov2{_IMAGES}": (32, "sdpa eager", "Dinov2", _PATCHES),
    f"Dinov2WithRegisters{_IMAGES}": (32, "sdpa eager", "Dinov2WithRegisters", _PATCHES),
    f"Beit{_IMAGES}": (32, "sdpa eager", "Beit", _PATCHES),
    "CLIPVisionModelWithProjection": (32, "sdpa eager", "CLIPVision", _PATCHES),
    f"Swin{_IMAGES}": (64, "sdpa eager", "Swin", _WINDOWS),
    f"Swinv2{_IMAGES}": (64, "eager", "Swinv2", _WINDOWS),
    f"ConvNext{_IMAGES}": (64, "eager", "ConvNext", _STAGES),
    f"ResNet{_IMAGES}": (64, "eager", "ResNet", _STAGES | {"embedding_size": 8}),
    f"MobileViT{_IMAGES}": (64, "eager", "MobileViT", {"image_size": 64}),
    f"Segformer{_IMAGES}": (64, "sdpa eager", "Segformer", _PYRAMID),
    "SegformerForSemanticSegmentation": (64, "sdpa", "Segformer", _PYRAMID),
    f"Cvt{_IMAGES}": (64, "eager", "Cvt", {}),
    f"Levit{_IMAGES}": (224, "eager", "Levit", {}),
    "DINOv3ViTModel": (32, "sdpa", "DINOv3ViT", _PATCHES),
    "DPTForSemanticSegmentation": (64, "sdpa", "DPT", _DENSE),
    f"PvtV2{_IMAGES}": (64, "eager", "PvtV2", _PYRAMID),
    f"PoolFormer{_IMAGES}": (64, "eager", "PoolFormer", _STAGES),
}
_WORDS = _BLOCKS | {
    "vocab_size": 50, "max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
_GROUPED = _WORDS | {"num_key_value_heads": 2}
_GPT2 = {
    "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50, "n_positions": 16, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
_DISTIL = {
    "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "vocab_size": 50,
    "max_position_embeddings": 16,
}  # fmt: skip
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 50}
_SENTENCES = "ForSequenceClassification"
HF_TEXT = {  # class: attention, configuration, fields
    "GPT2LMHeadModel": ("sdpa eager", "GPT2", _GPT2),
    "LlamaForCausalLM": ("sdpa eager", "Llama", _GROUPED),
    "MistralForCausalLM": ("sdpa", "Mistral", _GROUPED | {"sliding_window": 4}),
    "Qwen2ForCausalLM": ("sdpa", "Qwen2", _GROUPED),
    "Gemma2ForCausalLM": ("eager", "Gemma2", _GROUPED | {"head_dim": 8}),
    "GPTNeoXForCausalLM": ("sdpa eager", "GPTNeoX", _WORDS),
    "Phi3ForCausalLM": ("sdpa", "Phi3", _GROUPED),
    "FalconForCausalLM": ("sdpa", "Falcon", _WORDS),
    "MptForCausalLM": ("eager", "Mpt", {
        "d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 50, "max_seq_len": 16,
    }),
    f"ModernBert{_SENTENCES}": ("sdpa eager", "ModernBert", _WORDS),
    f"Bert{_SENTENCES}": ("sdpa eager", "Bert", _WORDS),
    f"Roberta{_SENTENCES}": ("sdpa", "Roberta", _WORDS),
    f"Albert{_SENTENCES}": ("sdpa", "Albert", _WORDS | {"embedding_size": 32}),
    f"DistilBert{_SENTENCES}": ("sdpa eager", "DistilBert", _DISTIL),
    "T5ForConditionalGeneration": ("sdpa eager", "T5", _T5),
    "MambaForCausalLM": ("eager", "Mamba", {
        "hidden_size": 32, "state_size": 4, "num_hidden_layers": 2, "vocab_size": 50,
    }),
}  # fmt: skip


def picture(side: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(side))


def sentence(length: int = 7) -> torch.Tensor:
    return torch.randint(3, 50, (2, length), generator=torch.Generator().manual_seed(length))


def torchvision_case(name: str) -> Case:
    def build() -> nn.Module:
        place: Any = import_torchvision().models
        for word in name.split("."):
            place = getattr(place, word)
        options: dict[str, Any] = {"weights": None, "num_classes": 10}
        if "." in name:
            options["weights_backbone"] = None
        if name in ("googlenet", "inception_v3"):
            options |= {"init_weights": False, "aux_logits": False}
        return place(**options)

    return Case(build, lambda: picture(TORCHVISION[name]))


def timm_case(name: str, *, fused: bool = True) -> Case:
    def build() -> nn.Module:
        import_torchvision()
        timm = import_foreign("timm")
        resized = {"img_size": 98} if "dinov2" in name else {}
        with _fused(timm, fused):
            return timm.create_model(name, pretrained=False, num_classes=10, **resized)

    return Case(build, lambda: picture(TIMM[name]), {"talking": "cait" in name})


@contextmanager
def _fused(timm: Any, on: bool) -> Iterator[None]:
    """timm reads this switch while it builds."""
    before = timm.layers.use_fused_attn()
    timm.layers.set_fused_attn(on)
    try:
        yield
    finally:
        timm.layers.set_fused_attn(bool(before))


def vision_case(name: str, attention: str) -> Case:
    row: tuple[Any, ...] = HF_VISION[name]
    side, _, configuration, fields = row
    return Case(
        lambda: huggingface(name, attention, configuration, fields | {"num_labels": 10}),
        lambda: {"pixel_values": picture(side)},
    )


def text_case(name: str, attention: str) -> Case:
    _, configuration, fields = HF_TEXT[name]
    x = {"input_ids": sentence()}
    if name.startswith("T5"):
        x["decoder_input_ids"] = sentence(5)
    if name.startswith("GPT2"):
        x["labels"] = sentence()
    return Case(
        lambda: huggingface(name, attention, configuration, fields), lambda: x, {"grid": False}
    )


def huggingface(name: str, attention: str, configuration: str, fields: dict[str, Any]) -> nn.Module:
    """A model of transformers from a configuration of its own."""
    import_torchvision()
    transformers = import_foreign("transformers")
    config = getattr(transformers, configuration + "Config")(**fields)
    return getattr(transformers, name)._from_config(config, attn_implementation=attention)


def cases() -> dict[str, Case]:
    """Every model of the sweep by name."""
    found = {f"torchvision {name}": torchvision_case(name) for name in TORCHVISION}
    found |= {f"timm {name}": timm_case(name) for name in TIMM}
    found |= {f"timm {name} unfused": timm_case(name, fused=False) for name in UNFUSED}
    for name, (_, attentions, *_) in HF_VISION.items():
        found |= {f"hf {name} {a}": vision_case(name, a) for a in attentions.split()}
    for name, (attentions, *_) in HF_TEXT.items():
        found |= {f"hf {name} {a}": text_case(name, a) for a in attentions.split()}
    return found

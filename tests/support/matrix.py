"""Models x capabilities: what every model of the zoo can do, checked; printed into the docs.

`make matrix` writes the table between its marks in docs/models.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

import limelight as ll
from limelight.kernels.attention.reference import attention, attention_map, attention_statistics
from limelight.kernels.shared import distances
from limelight.methods.circuits.evidence import Evidence
from limelight.methods.circuits.head_outputs import head_outputs
from limelight.probe.errors import MethodError
from limelight.probe.sites.adapter import adapt


class NotForThis(Exception):  # noqa: N818  (no fault: the model has no such part)
    """The capability makes no sense for this model."""


@dataclass(frozen=True)
class Small:
    """A small variant of a model: how to build it, what it takes and what is asked of it.

    given  draws the input where it is not one picture or a row of ids: a tuple of positional
           inputs or a mapping of named ones, each with samples first, in float64
    asked  the target, where it is not class 3
    """

    name: str
    hyper: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = (64, 64)
    channels: int = 3
    tokens: int = 0
    given: Callable[[int, torch.Generator], Any] | None = None
    asked: ll.Target | None = None

    def build(self) -> nn.Module:
        """The model with random weights, no biases, statistics of batch norms at rest."""
        torch.manual_seed(0)
        model = ll.load(self.name, weights=None, **self.hyper)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name.endswith("bias") and "bias_table" not in name:
                    p.zero_()
                elif p.ndim == 1 and float(p.abs().max()) < 1e-3:
                    p.fill_(0.5)  # layer scales of 1e-6 would hide every block
        return model

    def batch(self, count: int = 2, dtype: torch.dtype = torch.float32) -> Any:
        draw = torch.Generator().manual_seed(1)
        if self.given is not None:
            return cast(self.given(count, draw), dtype)
        if self.tokens:
            return torch.randint(0, 100, (count, self.tokens), generator=draw)
        shape = (count, self.channels, *self.size)
        return torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype)

    @property
    def target(self) -> Any:
        if self.asked is not None:
            return self.asked
        return ll.token(3, -1) if self.tokens else ll.label(3)


def cast(x: Any, dtype: torch.dtype) -> Any:
    """Values of another precision; ids and flags as they are."""
    return tree_map(lambda t: t.to(dtype) if t.is_floating_point() else t, x)


def run(model: Callable[..., Any], x: Any) -> Any:
    """What a model, or a probe on it, returns for a tensor, positional or named inputs."""
    if isinstance(x, Mapping):
        return model(**x)
    return model(*x) if isinstance(x, tuple) else model(x)


def one(values: Any, sample: int) -> Any:
    """One sample of inputs or outputs, still a batch."""
    return tree_map(lambda t: t[sample : sample + 1], values)


def joined(output: Any) -> Tensor:
    """All that an output holds, in one row."""
    return torch.cat([t.flatten().double() for t in tree_leaves(output)])


def photos_and_boxes(count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Photos from -1 to 1 and masks of a box each."""
    boxes = torch.zeros(count, 1, 64, 64, dtype=torch.float64)
    for n, box in enumerate(boxes):
        box[:, 16 : 40 + 4 * n, 8 + 4 * n : 48] = 1
    return torch.rand(count, 3, 64, 64, generator=draw, dtype=torch.float64) * 2 - 1, boxes


SMALL = (
    Small("alexnet", {"num_classes": 10}),
    Small("vgg11_bn", {"num_classes": 10}),
    Small("resnet18", {"num_classes": 10}),
    Small("efficientnet_lite0", {"num_classes": 10}),
    Small("deit_tiny", {"img_size": 64, "depth": 3, "num_classes": 10}),
    Small("convit_tiny", {"img_size": 64, "depth": 3, "local_up_to_layer": 2, "num_classes": 10}),
    Small("karat_tiny_g3b", {"img_size": 64, "depth": 3, "num_classes": 10}),
    Small(
        "karat_tiny_g3u",
        {"img_size": 64, "depth": 2, "base": "silu", "softmax_heads": (1,), "num_classes": 10},
    ),
    Small(
        "volo_d1",
        {
            "img_size": 64,
            "layers": (1, 1, 1),
            "embed_dims": (48, 96, 96),
            "num_heads": (3, 6, 6),
            "num_classes": 10,
        },
    ),
    Small(
        "biformer_tiny",
        {
            "depth": (1, 1),
            "embed_dim": (32, 64),
            "mlp_ratios": (2, 2),
            "topks": (3, -2),
            "num_heads": 4,
            "n_win": 4,
            "num_classes": 10,
        },
    ),
    Small(
        "biformer_stl_nchw",
        {
            "depth": (1, 1),
            "embed_dim": (32, 64),
            "mlp_ratios": (2, 2),
            "n_wins": (4, 4),
            "topks": (3, -1),
            "num_heads": 4,
            "num_classes": 10,
        },
    ),
    Small(
        "dinat_mini",
        {
            "embed_dim": 16,
            "depths": (2, 1),
            "num_heads": (2, 4),
            "dilations": (2, 1),
            "kernel_size": 5,
            "num_classes": 10,
        },
    ),
    Small(
        "maxvit_tiny_tf_224",
        {
            "img_size": 64,
            "embed_dim": (32, 64),
            "depths": (1, 1),
            "stem_width": (16, 32),
            "window": 4,
            "grid": 4,
            "num_classes": 10,
        },
    ),
    Small(
        "maxvit_nano_rw_256",
        {
            "img_size": 64,
            "embed_dim": (32, 64),
            "depths": (1, 1),
            "stem_width": (16, 32),
            "window": 4,
            "grid": 4,
            "num_classes": 10,
        },
    ),
    Small(
        "tiny_moat0",
        {
            "stem_size": (16, 16),
            "block_type": ("mbconv", "moat", "moat"),
            "num_blocks": (1, 1, 1),
            "hidden_size": (16, 32, 64),
            "head_size": 16,
            "window_size": (None, (4, 4), None),
            "position_embedding_size": (None, 4, 3),
            "num_classes": 10,
        },
    ),
    Small(
        "halonet26t",
        {
            "stages": ("BA", "A"),
            "out_chs": (64, 128),
            "stem_chs": (16,),
            "heads": 4,
            "block_size": 4,
            "halo_size": 1,
            "bottle_ratio": 0.5,
            "num_classes": 10,
        },
    ),
    Small("hornet_tiny_7x7", {"depths": (1, 1, 1, 1), "base_dim": 16, "num_classes": 10}),
    Small("hornet_tiny_gf", {"depths": (1, 1, 1, 1), "base_dim": 16, "num_classes": 10}),
    Small(
        "litv2_s",
        {
            "img_size": 64,
            "embed_dim": 16,
            "depths": (1, 1, 1, 1),
            "num_heads": (1, 1, 4, 4),
            "alpha": 0.5,
            "num_classes": 10,
        },
    ),
    Small(
        "overlock_xt",
        {
            "depth": (1, 1, 1, 1),
            "sub_depth": (2, 1),
            "embed_dim": (16, 16, 32, 48),
            "kernel_size": (7, 7, 5, 5),
            "sub_num_heads": (2, 2),
            "smk_size": 3,
            "projection": 64,
            "num_classes": 10,
        },
        size=(96, 96),
    ),
    Small(
        "oat_amazon",
        {
            "rows": 2,
            "cols": 3,
            "patch": (32, 32),
            "emb_size": 48,
            "num_heads": 3,
            "dim_feedforward": 48,
            "num_encoder_layers": 2,
            "num_decoder_layers": 2,
            "ca_d_k": 32,
        },
        given=lambda count, draw: (
            torch.rand(count, 6, 32, 32, 3, generator=draw, dtype=torch.float64),
            torch.randint(0, 6, (count,), generator=draw),
            torch.tensor([[8, 2, 2, 5, 1]]).repeat(count, 1),
        ),
        asked=ll.choice(2, 3),
    ),
    Small(
        "psa_hrnet_ocr_s",
        {
            "width": 8,
            "blocks_per_branch": 1,
            "modules": (1, 1, 1),
            "stage1_blocks": 1,
            "ocr_mid_channels": 32,
            "ocr_key_channels": 16,
            "num_classes": 10,
        },
        asked=ll.region(torch.ones(64, 64), 3),
    ),
    Small(
        "psa_pose_p_256x192",
        {"width": 8, "blocks_per_branch": 1, "modules": (1, 1, 1), "stage1_blocks": 1},
        asked=ll.peak(3, soft=1.0),
    ),
    Small("orchid_bert_base", {"d_model": 16, "depth": 2, "vocab_size": 128}, tokens=24),
    Small(
        "orchid_vit_cifar10",
        {"img_size": 64, "patch_size": 16, "d_model": 24, "depth": 2, "filter_order": 16},
    ),
    Small(
        "gla_340m",
        {"hidden_size": 64, "num_hidden_layers": 2, "num_heads": 2, "vocab_size": 128},
        tokens=24,
    ),
    Small(
        "reid_lba",
        {"layers": (1, 1, 1), "width": 16, "locations": "011", "num_classes": 10},
        asked=ll.similar(torch.ones(256)),
    ),
    Small(
        "reid_lba_pair",
        {"layers": (1, 1, 1), "width": 16, "locations": "011", "num_classes": 10},
        given=lambda count, draw: tuple(
            torch.randn(count, 3, 64, 32, generator=draw, dtype=torch.float64) for _ in range(2)
        ),
        asked=ll.label(0),
    ),
    Small(
        "relationnet2_retinanet_r50_fpn",
        {
            "layers": (1, 1, 1, 1),
            "width": 8,
            "channels": 32,
            "num_classes": 2,
            "anchors_per_location": 2,
            "stacked_convs": 1,
            "keypoint_stacked_convs": 1,
            "keypoint_logits_convs": 0,
            "num_attn_heads": 4,
            "base_size": (16, 16),
            "max_keypoint_num": 8,
            "cross_level_topk": 12,
            "norm": "GroupNorm 8 groups, eps 1e-5",
        },
        asked=ll.box(0, 3, 4, 2, at="cls_score"),
    ),
    Small(
        "s2aformer_mini",
        {
            "embed_dims": (16, 32),
            "depths": (1, 2),
            "num_heads": (1, 2),
            "sr_ratios": (4, 1),
            "num_classes": 10,
        },
    ),
    Small(
        "msguided_narrow",
        {"width": 8, "inter_channels": 8},
        channels=1,
        asked=ll.region(torch.ones(64, 64), 3),
    ),
    Small(
        "sentence_attention_b0",
        {"encode_dim": 16},
        given=lambda count, draw: (
            torch.randn(count, 3, 64, 64, generator=draw, dtype=torch.float64),
            torch.randn(count, 16, generator=draw, dtype=torch.float64),
        ),
        asked=ll.region(torch.ones(64, 64), 1),
    ),
    Small(
        "sparsifiner_small",
        {
            "img_size": 64,
            "depth": 3,
            "embed_dim": 96,
            "num_heads": 3,
            "reduce_n_factor": 2,
            "token_pruning_layers": (1,),
            "token_keep_rate_base": 0.8,
            "num_classes": 10,
        },
    ),
    Small(
        "smollm2_135m",
        {
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "vocab_size": 128,
        },
        tokens=24,
    ),
    Small(
        "sigmoid_attention",
        {
            "d": 48,
            "heads": 4,
            "blocks": 2,
            "hidden": 96,
            "vocab": 128,
            "kind": "alibi",
            "act": "seq_len_normalized_sigmoid",
            "ls": True,
        },
        tokens=24,
    ),
    Small(
        "sigma_1.5b",
        {
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 8,
            "num_key_heads": 2,
            "num_value_heads": 4,
            "augq_size": 96,
            "vocab_size": 128,
        },
        tokens=24,
    ),
    Small(
        "seerattention",
        {
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "vocab_size": 128,
            "seerattn_gate_block_size": 4,
            "seerattn_gate_hidden_size": 8,
            "seerattn_sparsity_method": "nz_ratio",
            "seerattn_nz_ratio": 0.6,
        },
        tokens=24,
    ),
    Small("induction_2l", {"vocab_size": 128}, tokens=24),
    Small(
        "ninformer_cifar10",
        {"img_size": 64, "patch_size": 8, "d_model": 32, "d_ffn": 48, "num_layers": 2},
    ),
    Small("activator_cifar10", {"patch_size": 8, "d_model": 32, "d_ffn": 48, "num_layers": 2}),
    Small(
        "activator_cifar10_only_geglu",
        {"patch_size": 8, "d_model": 32, "d_ffn": 48, "num_layers": 2},
    ),
    Small(
        "ffnet_3",
        {
            "depth": (1, 1),
            "embed_dim": (16, 32),
            "in_dim": 8,
            "kernel_sizes1": (3, 7),
            "kernel_sizes2": (3, 7),
            "num_classes": 10,
        },
    ),
    Small(
        "garnet",
        {"ndf": 16},
        given=photos_and_boxes,
        asked=ll.region(torch.ones(64, 64), 1, at="up5"),
    ),
    Small("garnet_discriminator", {"ndf": 8}, channels=6, asked=ll.pixel(3, 2, 0)),
    Small(
        "ffnet40S_BBB_mobile",
        {"layers": (1, 1, 1, 1), "num_classes": 6},
        asked=ll.pixel(5, 6, 3),
    ),
    Small("mobilenet_v1_ulsam_after_11", {"width": 0.25, "num_classes": 10}),
    Small("mobilenet_v2_ulsam_for_13_16", {"width": 0.25, "num_classes": 10}),
    Small(
        "transnext_micro",
        {
            "img_size": 64,
            "embed_dims": (24, 48, 48, 48),
            "num_heads": (1, 2, 2, 2),
            "depths": (1, 1, 1, 1),
            "mlp_ratios": (2, 2, 2, 2),
            "num_classes": 10,
        },
    ),
    Small("vig_tiny", {"depth": 2, "num_classes": 10}),
    Small("vig_h_tiny", {"dims": 32, "depths": (1, 1), "num_heads": (1, 2), "num_classes": 10}),
    Small(
        "vit_base_patch16_224_sigmoid",
        {"img_size": 64, "depth": 2, "dim": 48, "heads": 3, "num_classes": 10},
    ),
    Small("vit_b_16", {"img_size": 64, "depth": 2, "dim": 96, "heads": 3, "num_classes": 10}),
    *(
        Small(f"zoology_{mixer}", {"d_model": 16, "vocab_size": 128}, tokens=24)
        for mixer in ("attention", "sliding", "selective", "baseconv", "based", "hyena", "rwkv")
    ),
    Small(
        "zoology_h3",
        {
            "d_model": 16,
            "vocab_size": 128,
            "sequence_mixer": {"name": "h3", "kwargs": {"l_max": 64, "head_dim": 2}},
        },
        tokens=24,
    ),
)
CAPABILITIES: dict[str, Callable[[Small, nn.Module], None]] = {}


def capability(title: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def register(check: Callable[..., None]) -> Callable[..., None]:
        CAPABILITIES[title] = check
        return check

    return register


@capability("trace")
def traces_hidden_sites(small: Small, model: nn.Module) -> None:
    x = small.batch()
    t = ll.trace(model, x, "hidden")
    assert len(t) >= 2
    with torch.no_grad():
        made = run(model, x)
    torch.testing.assert_close(made if t.output is None else t.output, made)
    assert not t.holes


@capability("gradients")
def gradients_equal_autograd(small: Small, model: nn.Module) -> None:
    x = small.batch()
    if small.tokens:
        t = ll.trace(model, x, "hidden", target=small.target)
        assert all(v.grad is not None and v.grad.isfinite().all() for v in t.values())
        return
    given = tree_map(lambda t: t.clone().requires_grad_(t.is_floating_point()), x)
    scores = small.target(run(model, given)) if small.asked else model(given)[:, 3]
    leaves = tree_leaves(given)
    wanted = torch.autograd.grad(scores.sum(), leaves[:1])[0]
    with ll.Probe(model) as p:
        p.watch("input")
        run(p, x)
        p.backward(small.target)
        torch.testing.assert_close(p.trace["input"].grad, wanted)
    found = ll.maps(model, x, ["gradient", "gradcam"], target=small.target)
    assert all(m.values.isfinite().all() for m in found)


@capability("NormGrad")
def normgrad_at_hidden_sites(small: Small, model: nn.Module) -> None:
    found = ll.maps(model, small.batch(), "normgrad", sites="hidden", target=small.target)
    assert len(found) >= 4
    assert all(m.values.isfinite().all() for m in found)
    assert sum(float(m.values.abs().max()) > 0 for m in found) > len(found) // 3


@capability("relevance")
def relevance_with_a_closed_ledger(small: Small, model: nn.Module) -> None:
    books = ll.ledger(model, small.batch(1), "lrp:epsilon", target=small.target)
    size = max(row.absolute for row in books)
    worst = max(books, key=lambda row: abs(row.leak))
    assert abs(worst.leak) <= 1e-4 * size, worst
    assert abs(books.start) > 0


def _attended(small: Small, model: nn.Module, x: Tensor, *, grad: bool = False) -> ll.Probe:
    paths = adapt(model).heads
    if not paths:
        raise NotForThis("no attention")
    p = ll.Probe(model, grad=grad)
    ports = ("map", "heads", "v")
    p.watch(*(f"{path}:{port}" for path in paths for port in ports))
    return p


@capability("maps")
def maps_are_read_behind_the_fused_op(small: Small, model: nn.Module) -> None:
    x = small.batch()
    with _attended(small, model, x) as p:
        run(p, x)
        for site, attention in p.trace.where("**:map").items():
            v, out = (p.trace[f"{site.path}:{port}@{site.call}"].act for port in ("v", "heads"))
            made = attention.act @ v.repeat_interleave(attention.act.shape[1] // v.shape[1], 1)
            torch.testing.assert_close(made, out, rtol=1e-4, atol=1e-5)


class Caught(TorchFunctionMode):
    """The arguments of every attention op of a forward."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[dict[str, Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is attention:
            self.calls.append(func.signature.bind(*args, **(kwargs or {})).arguments)
        return func(*args, **(kwargs or {}))


@capability("statistics")
def statistics_beside_the_op_equal_those_of_the_map(small: Small, model: nn.Module) -> None:
    with Caught() as caught, torch.no_grad():
        run(model, small.batch())
    if not caught.calls:
        raise NotForThis("no attention op")
    for call in caught.calls:
        window, keys = call.get("window"), call["k"].shape[2]
        side = round(keys**0.5)
        grid = window.grid if window else (side, side) if side * side == keys else (1, keys)
        square = window is not None or call["q"].shape[2] == keys
        asked = {"grid": grid, "radius": 1.5} if square else {}
        _, found = attention_statistics(**call, **asked)
        explicit = attention_map(slice(None), **{n: wider(x) for n, x in call.items()})
        if call.get("score", "softmax") == "softmax" and not (window and window.halo):
            sums = explicit.sum(-1)
            torch.testing.assert_close(sums, torch.ones_like(sums))
        want = {"entropy": torch.special.entr(explicit).sum(-1)}
        if asked:
            stride = 1 if window is None else window.stride
            far = distances(grid, stride, explicit.device, explicit.dtype)
            want |= {
                "distance": (explicit * far).sum(-1),
                "mass": (explicit * (far <= 1.5)).sum(-1),
            }
        for name, value in want.items():
            torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=1e-5)


def wider(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


@capability("map gradients")
def gradient_of_the_map_equals_a_difference(small: Small, model: nn.Module) -> None:
    model = model.double()
    x = small.batch(1, torch.float64)
    with _attended(small, model, x, grad=True) as p:
        run(p, x)
        p.backward(small.target)
        site, attention = next(iter(p.trace.where("**:map").items()))
        grad = attention.grad
        assert grad is not None
    draw = torch.Generator().manual_seed(2)
    way = torch.randn(grad.shape, generator=draw, dtype=grad.dtype)
    step = 1e-6
    up, down = (
        float(ll.patch(model, x, {site: lambda m, _, s=s: m + s * way}, target=small.target))
        for s in (step, -step)
    )
    want = float((grad * way).sum())
    assert abs((up - down) / (2 * step) - want) <= 1e-4 * max(1e-3, abs(want))


@capability("head edits")
def a_head_can_be_cut(small: Small, model: nn.Module) -> None:
    x = small.batch()
    paths = adapt(model).heads
    if not paths:
        raise NotForThis("no attention")
    with torch.no_grad():
        before = run(model, x)
    cut = ll.patch(model, x, {f"{paths[0]}:heads.0": ll.zero})
    assert not torch.equal(joined(cut), joined(before))
    with torch.no_grad():
        torch.testing.assert_close(run(model, x), before, rtol=0, atol=0)


@capability("circuits")
def heads_are_scored_where_they_write(small: Small, model: nn.Module) -> None:
    if small.given is not None:
        raise NotForThis("pairs of several inputs")
    if small.asked is not None:
        raise NotForThis("answers that are no classes")
    x = small.batch(4)
    try:
        outputs = head_outputs(model, x)
    except MethodError as error:
        raise NotForThis(str(error)) from error
    clean, corrupt = x[:2], x[2:]
    pairs = tuple(ll.Pair(a, b, (3,), (5,)) for a, b in zip(clean, corrupt, strict=True))
    evidence = Evidence(model, ll.Pairs("noise", pairs), outputs=outputs)
    score = ll.use("attribution")(evidence)
    head = int(score.values.argmax())
    assert score.values[head] > 0
    layer = int(outputs.layer[head])
    o, step = outputs.layers[layer], 1e-3
    own = evidence.corrupt.z - evidence.clean.z
    tokens = own.unflatten(0, (2, -1))[:, :, head]

    def nudged(size: float) -> Tensor:
        def change(z: Tensor) -> Tensor:
            z = z.clone()
            z[:, :, head - outputs.span(layer).start] += size * tokens[:, -z.shape[1] :].to(z)
            return z

        return ll.patch(model, clean, {o.site: o.edit(change)}, target=evidence.pairs.target())

    slope = ((nudged(step) - nudged(-step)) / (2 * step)).mean()
    assert abs(slope - score.signed[head]) <= 0.05 * abs(slope) + 1e-3


@capability("state dict")
def state_dict_goes_round(small: Small, model: nn.Module) -> None:
    torch.manual_seed(7)
    other = ll.load(small.name, weights=None, **small.hyper)
    other.load_state_dict(model.state_dict(), strict=True)
    x = small.batch()
    with torch.no_grad():
        torch.testing.assert_close(run(other, x), run(model, x), rtol=0, atol=0)


@capability("bfloat16")
def half_precision_runs_and_stays_close(small: Small, model: nn.Module) -> None:
    x = small.batch()
    with torch.no_grad():
        whole = joined(run(model, x))
    half = model.bfloat16()
    low = cast(x, torch.bfloat16)
    with torch.no_grad():
        out = run(half, low)
    assert all(t.dtype in (torch.bfloat16, torch.int64) for t in tree_leaves(out))
    assert (joined(out) - whole).norm() <= 0.15 * whole.norm()
    found = ll.maps(half, low, "normgrad", sites="hidden", target=small.target)
    assert all(m.values.isfinite().all() for m in found)


@capability("batch")
def samples_do_not_see_each_other(small: Small, model: nn.Module) -> None:
    x = small.batch(3)
    with torch.no_grad():
        whole = run(model, x)
        each = [run(model, one(x, i)) for i in range(3)]
    for i, alone in enumerate(each):
        torch.testing.assert_close(one(whole, i), alone, rtol=1e-4, atol=1e-5)
    found = ll.maps(model, x, "normgrad", sites="last", target=small.target)
    lone = ll.maps(model, one(x, 1), "normgrad", sites="last", target=small.target)
    calls = len(lone)  # more than one where several inputs go through one layer
    for beside, alone in zip(found[calls : 2 * calls], lone, strict=True):
        assert beside.site == alone.site
        torch.testing.assert_close(beside.values, alone.values, rtol=1e-3, atol=1e-6)


def cells() -> Iterator[tuple[str, str, str]]:
    """Model, capability, and `yes`, `–` (not for this model) or what went wrong."""
    for small in SMALL:
        for title, check in CAPABILITIES.items():
            try:
                check(small, small.build())
                yield small.name, title, "yes"
            except NotForThis:
                yield small.name, title, "–"
            except Exception as error:
                yield small.name, title, f"no: {type(error).__name__}"


def table() -> str:
    """The matrix as Markdown."""
    found: dict[str, dict[str, str]] = {}
    for name, title, word in cells():
        found.setdefault(name, {})[title] = word
    rows = [["model", *CAPABILITIES], ["---"] * (1 + len(CAPABILITIES))]
    rows += [[name, *row.values()] for name, row in found.items()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main(path: Path) -> None:
    """Write the table between the marks of a Markdown file."""
    start, end = "<!-- matrix -->\n", "<!-- /matrix -->"
    head, _, rest = path.read_text().partition(start)
    _, mark, tail = rest.partition(end)
    if not mark:
        raise SystemExit(f"{path} has no marks {start.strip()} and {end}: add both")
    path.write_text(head + start + table() + "\n" + end + tail)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))

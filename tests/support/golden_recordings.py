"""What golden cases store beside the outputs of modules: maps, scans and states, from ports."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.kernels.aggregated import aggregated_shares
from limelight.kernels.gated_linear.reference import gated_linear_attention
from limelight.kernels.long_convolution import long_convolution
from limelight.kernels.windows import Window
from limelight.models.layers.sequence import Cache

Outputs = dict[str, Tensor]


def ports(model: nn.Module, x: Tensor, path: str, names: tuple[str, ...]) -> list[Tensor]:
    """The values at the ports of one module."""
    trace = ll.trace(model, x, [f"{path}:{name}" for name in names])
    return [trace[f"{path}:{name}"].act for name in names]


def layer_output(model: nn.Module, x: Tensor, found: Outputs) -> Outputs:
    """A layer alone: what it returns is its `out`."""
    rest = dict(found)
    return {"out": rest.pop("logits"), **rest}


def neighborhood_layer(model: nn.Module, x: Tensor, found: Outputs) -> Outputs:
    """A neighbourhood layer alone: its projection over the grid and what it returns."""
    found = layer_output(model, x, found)
    return found | {"qkv": found["qkv"].unflatten(1, x.shape[1:-1])}


def qkv_map(model: nn.Module, x: Tensor, found: Outputs) -> Outputs:
    """The first block's attention, from the projection recorded in its place."""
    qkv, heads = found["attn0"], model.blocks[0].attn.num_heads
    q, k, _ = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return found | {"attn0": (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)}


def ulsam_maps(model: nn.Module, x: Tensor, found: Outputs, *, last: int) -> Outputs:
    """A ULSAM alone: attention of its first and last subspace, the first's part of what leaves."""
    attention = ports(model, x, "", ("map",))[0][:, :, 0]
    found = layer_output(model, x, found)
    size = x.shape[1] // (last + 1)
    maps = {"g0_att": attention[:, :1], "glast_att": attention[:, last : last + 1]}
    return found | maps | {"g0_out": found["out"][:, :size]}


def polarized_gates(model: nn.Module, x: Tensor, found: Outputs) -> Outputs:
    """Polarized attention alone: what each gate leaves of what it is given."""
    found = layer_output(model, x, found)
    channels, places = ports(model, x, "", ("channel_gate", "spatial_gate"))
    after = x * channels
    given = x if model.kind == "p" else after
    gates = {"spatial_gate": places, "after_channel": after, "after_spatial": given * places}
    return found | gates


def without_logits(model: nn.Module, x: Tensor, found: Outputs) -> Outputs:
    """Of a network whose case stores its parts alone."""
    return {key: value for key, value in found.items() if key != "logits"}


def maxvit_windows(model: nn.Module, x: Tensor, found: Outputs) -> Outputs:
    """Attention and its outputs cut into windows; the pooled features."""
    first = "stages.0.blocks.0"
    sites = [f"{first}.attn_{kind}.attn:map" for kind in ("block", "grid")]
    trace = ll.trace(model, x, sites)
    own = model.stages[0].blocks[0].attn_block.attn.size
    found = dict(found)
    for kind, short, site in zip(("block", "grid"), ("win", "grid"), sites, strict=True):
        out = found[f"{short}_attn0"]
        window = Window(kind, own, tuple(out.shape[1:3]))
        queries, keys = window.query_index(), window.key_index()
        attention = trace[site].act[:, :, queries[:, :, None], keys[:, None, :]]
        found[f"{short}_prob0"] = attention.transpose(1, 2).flatten(0, 1)
        cut = out.flatten(1, 2)[:, queries].flatten(0, 1)
        found[f"{short}_attn0"] = cut.unflatten(1, own)
    tf = "pre_logits" in found  # the layout that pools before its norm
    last = found["stage3"] if tf else model.norm(found["stage3"])
    pooled = last.mean((2, 3), keepdim=tf)
    return found | {"pooled": pooled}


def hilo_halves(model: nn.Module, x: Tensor, found: Outputs) -> Outputs:
    """The two parts of the first HiLo; maps of features as tokens, as the published code has."""
    high, low = ports(model, x, "layers.2.blocks.0.attn", ("hifi", "lofi"))
    maps = {"logits", "l0_offset", "l0_dconv"}
    tokens = {key: y if key in maps else y.flatten(1, 2) for key, y in found.items()}
    return tokens | {"l2b0_hifi": high, "l2b0_lofi": low}


def moat_windows(model: nn.Module, x: Tensor, found: Outputs) -> Outputs:
    """The first attention and its output cut into windows, `(b w) ...`."""
    path = "block_02_00.attention"
    (attention,) = ports(model, x, path, ("map",))
    out = found["moat0_attn_out"]
    grid = (out.shape[1], out.shape[2])
    window = Window("block", model.get_submodule(path).window or grid, grid)
    queries, keys = window.query_index(), window.key_index()
    cut = attention[:, :, queries[:, :, None], keys[:, None, :]].transpose(1, 2).flatten(0, 1)
    return found | {
        "moat0_attn": cut,
        "moat0_attn_out": out.flatten(1, 2)[:, queries].flatten(0, 1),
    }


def halo_attention(
    model: nn.Module, x: Tensor, path: str, grid: tuple[int, ...]
) -> dict[str, Tensor]:
    """Relative logits and attention with the zeros outside, `(b h) w q k`, from the op's ports."""
    layer = model.get_submodule(path)
    window = Window("halo", (layer.block_size,) * 2, grid, layer.halo_size, layer.stride)
    queries, keys = window.query_index(), window.key_index()
    q, k, rows, columns = ports(model, x, path, ("q", "k", "rows", "columns"))
    q, rows, columns = (t[:, :, queries] for t in (q, rows, columns))
    k = F.pad(k, (0, 0, 0, 1))[:, :, keys % (k.shape[2] + 1)]
    places = torch.arange(keys.shape[1])
    width = window.key_size[1]
    relative = rows[..., places // width] + columns[..., places % width]
    attention = (q @ k.mT * layer.scale + relative).softmax(-1)
    return {"rel_logits": relative.flatten(0, 1), "attn": attention.flatten(0, 1)}


def halo_layer(model: nn.Module, x: Tensor, found: Outputs) -> Outputs:
    """A halo layer alone: its attention and what it returns."""
    return layer_output(model, x, found) | halo_attention(model, x, "", tuple(x.shape[2:]))


def volo_maps(model: nn.Module, x: Tensor, found: Outputs) -> Outputs:
    """Outlook weights and the maps of self-attention and class attention."""
    sites = ("network.0.0.attn:weight", "network.2.0.attn:map", "post_network.1.attn:map")
    trace = ll.trace(model, x, sites)
    outlook, tokens, classes = (trace[site].act for site in sites)
    return found | {
        "outlook_logits0": found["outlook_logits0"].unflatten(1, (5, 5)),
        "outlook_prob0": outlook.softmax(-1),
        "tf_prob0": tokens,
        "cls_prob1": classes,
    }


def overlock_kernels(model: nn.Module, x: Tensor, found: Outputs) -> Outputs:
    """The first block's context part; kernels of the first and last block by rows and columns."""
    first, last = "sub_blocks3.0", "sub_blocks4.1"
    sites = (f"{first}:out.1", f"{first}:small", f"{first}:large", f"{last}:large")
    trace = ll.trace(model, x, sites)
    context, *kernels = (trace[site].act for site in sites)
    names = ("dyn_kernel_small0", "dyn_kernel_large0", "dyn_kernel_large_last")
    grids = [
        model.get_submodule(path).mixed_at(grid)
        for path, grid in (
            (first, context.shape[2:]),
            (first, context.shape[2:]),
            (last, found["focus_out"].shape[2:]),
        )
    ]
    shaped = (k.unflatten(2, grid) for k, grid in zip(kernels, grids, strict=True))
    return found | {"sub3_0_ctx": context} | dict(zip(names, shaped, strict=True))


def transnext_maps(model: nn.Module, x: Tensor, found: Outputs) -> Outputs:
    """The joint softmax of two blocks, a window and then pooled keys, and a table of distances."""
    names = ("q", "k", "v", "embedding", "scale", "local_bias", "pool_bias")
    shares = {}
    for key, path in (("b1_0_attn_map", "block1.0.attn"), ("b3_0_attn_map", "block3.0.attn")):
        layer = model.get_submodule(path)
        named = dict(zip(names, ports(model, x, path, names), strict=True))
        shares[key] = aggregated_shares(**named, grid=layer.grid, pool=layer.pool_size)
    return found | shares | {"rel_coords_table1": model.block1[0].attn.coordinates}


def _scans(model: nn.Module, x: Tensor, path: str) -> dict[str, Tensor]:
    """Both directions of a scan: what they read and what they give."""
    q, k, v, gate, back = ports(model, x, path, ("q", "k", "v", "gate", "gate_back"))
    return {
        "q": q,
        "log_decay_fw": gate,
        "log_decay_bw": back,
        "o_fw": gated_linear_attention(q, k, v, gate),
        "o_bw": gated_linear_attention(q, k, v, back, reverse=True),
    }


def vig_scans(model: nn.Module, x: Tensor, found: Outputs) -> Outputs:
    """The first block's scans; patches as tokens."""
    patches = found["patch_embed"].flatten(2).transpose(1, 2)
    scans = {f"b0.{key}": value for key, value in _scans(model, x, "blocks.0.attn").items()}
    return found | {"patch_embed": patches} | scans


def vig_h_scans(model: nn.Module, x: Tensor, found: Outputs) -> Outputs:
    """The first block's scans."""
    scans = _scans(model, x, "layers.0.blocks.0.op")
    del scans["q"]
    return found | {f"s0.b0.{key}": value for key, value in scans.items()}


def gla_ports(model: nn.Module, x: Tensor, found: Outputs) -> Outputs:
    """The first layer's queries, keys, decays and head outputs; the state it ends in."""
    names = {"q": "q", "k": "k", "log_decay": "gate", "o_raw": "heads"}
    values = ports(model, x, "model.layers.0.attn", tuple(names.values()))
    heads = {f"l0.{key}": y.transpose(1, 2) for key, y in zip(names, values, strict=True)}
    cache = Cache()
    with torch.no_grad():
        model(x, cache=cache)
    return found | heads | {"l0.final_state": cache.layers[0]["state"]}


def sigma_map(model: nn.Module, x: Tensor, found: Outputs) -> Outputs:
    """The first layer's map."""
    return found | {"l0.attn_weights": ports(model, x, "model.layers.0.self_attn", ("map",))[0]}


def sigmoid_maps(model: nn.Module, x: Tensor, found: Outputs) -> Outputs:
    """Every block's map, and what it makes of the values."""
    maps: Outputs = {}
    for n in range(len(model.blocks)):
        attention, heads = ports(model, x, f"blocks.{n}.attn", ("map", "heads"))
        maps[f"block{n}.attn_matrix"] = attention
        maps[f"block{n}.attn_times_v"] = heads.transpose(1, 2).flatten(2)
    return found | maps


def sparsifiner_maps(model: nn.Module, x: Tensor, found: Outputs) -> Outputs:
    """The first layer's sparse coefficients, estimate, connectivity and both softmaxes."""
    first = "blocks.0.attn"
    estimates = ports(model, x, f"{first}.mask_predictor", ("coefficients", "estimate"))
    q, k, mask, masked = ports(model, x, first, ("q", "k", "mask", "map"))
    return found | {
        "l0_basis_coef": estimates[0],
        "l0_approx_attn": estimates[1],
        "l0_attn_mask": mask[:, :, 1:],
        "l0_masked_attn": masked[:, :, 1:],
        "l0_unmasked_attn": (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1),
        "features": found["features"][:, 1:],
    }


def orchid_filters(model: nn.Module, x: Tensor, found: Outputs) -> Outputs:
    """The operator's result, gate, value, filters, and its convolution before the outer gate."""
    names = ("kernel_fixed", "kernel_adapt", "v", "filter", "gate_in", "gate_out")
    static, made, v, filter, gate_in, gate_out = ports(model, x, "", names)
    conv = long_convolution(v, filter, gate_in=gate_in, circular=True)
    n = x.shape[1]
    found = layer_output(model, x, found) | {
        "x0": gate_out[..., :n],
        "v_short": v[:, :, :n, 0],
        "conv": conv[:, :, :n, 0],
        "res": found["res"].mT,
        "kernel_fixed": static,
    }
    if made.is_complex():
        return found | {"kernel_adapt_re": made.real, "kernel_adapt_im": made.imag}
    return found | {"kernel_adapt": made[:, None] if model.causal else made}


def garnet_outputs(model: nn.Module, x: Tensor, found: Outputs) -> Outputs:
    """The photo at three sizes, and gates and masks of the first and last block."""
    made = found.pop("logits")
    (stroke, surround), *_ = made["attentions"]
    return found | {
        **{key: made[key] for key in ("up1", "up2", "up3_o", "up4_o", "up5")},
        "mask_m1": made["masks"][0],
        "mask_last": made["masks"][-1],
        "att1": made["gates"][0],
        "att8": made["gates"][-1],
        "att1_text": stroke,
        "att1_surround": surround,
    }


def only_score(model: nn.Module, x: Tensor, found: Outputs) -> Outputs:
    """A discriminator: what it returns is its `score`."""
    return {"score": found.pop("logits"), **found}


def backbone_features(model: nn.Module, x: Tensor, found: Outputs) -> Outputs:
    """The four scales of a backbone that returns them all."""
    with torch.no_grad():
        features = model.backbone_model(x if model.smoothing is None else model.smoothing(x))
    names = ("feat4", "feat8", "feat16", "feat32")
    return found | dict(zip(names, features, strict=True))

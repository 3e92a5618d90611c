"""Gated linear attention as a layer (arXiv 2312.06635): projections, decays, heads, output gate."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....kernels.gated_linear import gated_linear_attention, gla_state
from ....probe.errors import OptionError
from ....probe.mark import mark
from ...layers import Memory, RmsNorm, activation, config_activation, pads_back, pads_first


class GatedLinearAttention(nn.Module):
    """o_t = q_t S_t / sqrt(d), S_t = diag(exp(g_t)) S_{t-1} + k_t v_t'; then norm, gate, output.

    Ports: q, k, v, gate (log decay by head), heads and map of the op, `b h n d`; `log_decay` and
    `output_gate`, `b n c`, before heads are split and as they multiply the normed heads.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_kv_heads: int | None,
        *,
        expand_k: float,
        expand_v: float,
        feature_map: str | None,
        conv_size: int,
        output_gate: bool,
        act: str,
        affine: bool,
        eps: float,
        clamp_min: float | None,
        fuse_norm: bool,
        normalizer: float,
        low_rank: int,
    ) -> None:
        super().__init__()
        keys, values = int(dim * expand_k), int(dim * expand_v)
        self.groups = num_heads // (num_kv_heads or num_heads)
        if keys % num_heads or values % num_heads or num_heads % (num_kv_heads or num_heads):
            raise OptionError(
                f"{keys} keys and {values} values do not divide into {num_heads} heads of "
                f"{num_kv_heads or num_heads} groups: give num_heads that divides both"
            )
        self.num_heads, self.normalizer, self.clamp_min = num_heads, normalizer, clamp_min
        self.act, self.feature_map = _function(act), feature_map and _function(feature_map)
        self.q_proj = nn.Linear(dim, keys, bias=False)
        self.k_proj = nn.Linear(dim, keys // self.groups, bias=False)
        self.v_proj = nn.Linear(dim, values // self.groups, bias=False)
        self.g_proj = nn.Linear(dim, values, bias=False) if output_gate else None
        widths = {"q": keys, "k": keys // self.groups, "v": values // self.groups}
        for name, width in widths.items() if conv_size else ():
            conv = nn.Conv1d(width, width, conv_size, groups=width, bias=False)
            self.add_module(f"{name}_conv1d", conv)
        self.conv_size = conv_size
        self.gk_proj = nn.Sequential(
            nn.Linear(dim, low_rank, bias=False), nn.Linear(low_rank, keys // self.groups)
        )
        self.o_proj = nn.Linear(values, dim, bias=False)
        fused = output_gate and fuse_norm and act == "swish"
        self.norm_name = "g_norm_swish_gate" if fused else "g_norm"
        self.add_module(self.norm_name, RmsNorm(values // num_heads, eps, affine))

    def forward(
        self, x: Tensor, keep: Tensor | None = None, memory: Memory | None = None
    ) -> Tensor:
        real = None
        if keep is not None:
            real = pads_first(keep[..., None], keep)
            x = pads_first(x, keep).masked_fill(~real, 0)
        q, k, v = (self.project(name, x, real, memory) for name in ("q", "k", "v"))
        decay = F.logsigmoid(self.gk_proj(x)) / self.normalizer
        if self.clamp_min is not None:
            decay = decay.clamp_min(self.clamp_min)
        decay = mark("log_decay", decay)
        if real is not None:
            decay, k = decay.masked_fill(~real, 0), k.masked_fill(~real, 0)
        q = q.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        out = self.mix(q, self.split(k), self.split(v), self.split(decay), memory)
        out = self.get_submodule(self.norm_name)(out.transpose(1, 2)).flatten(2)
        if self.g_proj is not None:
            out = out * mark("output_gate", self.act(self.g_proj(x)))
        out = self.o_proj(out)
        return out if keep is None else pads_back(out, keep)

    def project(self, name: str, x: Tensor, real: Tensor | None, memory: Memory | None) -> Tensor:
        """q, k or v: projected, where there are short convolutions convolved, then mapped."""
        x = self.get_submodule(f"{name}_proj")(x)
        if self.conv_size:
            x = F.silu(self.convolve(f"{name}_conv1d", x, real, memory))
        return self.feature_map(x) if self.feature_map and name != "v" else x

    def convolve(self, name: str, x: Tensor, real: Tensor | None, memory: Memory | None) -> Tensor:
        """A causal depthwise convolution over the last inputs and these, padding taken out."""
        conv = self.get_submodule(name)
        size = self.conv_size - 1
        before = memory.get(name) if memory else None
        if before is None:
            before = x.new_zeros(len(x), size, x.shape[-1])
        x = torch.cat([before, x], 1)
        if real is not None:
            x = pads_first(x, F.pad(real[..., 0], (size, 0), value=True))
        if memory is not None:
            memory[name] = x[:, x.shape[1] - size :]
        return conv(x.mT).mT

    def split(self, x: Tensor) -> Tensor:
        """Heads before tokens; a key and value head serves a run of query heads."""
        x = x.unflatten(-1, (self.num_heads // self.groups, -1)).transpose(1, 2)
        return x if self.groups == 1 else x.repeat_interleave(self.groups, 1)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, memory: Memory | None) -> Tensor:
        """The recurrence, from the state that earlier calls left where there is a memory."""
        if memory is None:
            return gated_linear_attention(q, k, v, decay)
        out, memory["state"] = gla_state(q, k, v, decay, memory.get("state"))
        return out


def _function(word: str) -> Callable[[Tensor], Tensor]:
    return activation(config_activation(word)).function

"""Gated linear attention language models (arXiv 2312.06635), with the names of their hub files."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from ....probe.errors import OptionError
from ...card import Card, Source, State
from ...layers import (
    GatedMlp,
    LanguageModel,
    Memory,
    RmsNorm,
    RotaryAttention,
    Trunk,
    config_activation,
    in_trunk,
)
from ...registry import Variant, register
from .mixer import GatedLinearAttention

OLD_NAMES = (
    ("model.embed_tokens.", "model.embeddings."),
    (".attn.g_norm_swish_gate.", ".attn.g_norm."),
    (".attn.g_norm.", ".attn.g_norm_swish_gate."),
)


class Block(nn.Module):
    """x + mixer(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, dim: int, attn: nn.Module, mlp: nn.Module, eps: float) -> None:
        super().__init__()
        self.attn_norm = RmsNorm(dim, eps)
        self.attn = attn
        self.mlp_norm = RmsNorm(dim, eps)
        self.mlp = mlp

    def forward(
        self, x: Tensor, keep: Tensor | None = None, memory: Memory | None = None
    ) -> Tensor:
        x = x + self.attn(self.attn_norm(x), keep, memory)
        return x + self.mlp(self.mlp_norm(x))


class GlaLanguageModel(LanguageModel):
    """A language model of gated linear attention: no positional encoding."""

    def convert_state(self, state: State) -> State:
        """A hub file's entries under this model's names, older spellings included."""
        return current_names(state, self.state_dict().keys(), tied=self.tied)


def current_names(state: State, wanted: Collection[str], *, tied: bool) -> State:
    """A file's entries under a model's names: prefix, old names, fused MLPs, tied embeddings."""
    state = {n: x for n, x in in_trunk(state).items() if not n.endswith("rotary.inv_freq")}
    for old, new in OLD_NAMES:
        for name in [n for n in state if old in n and n not in wanted]:
            if (renamed := name.replace(old, new)) in wanted:
                state[renamed] = state.pop(name)
    for name in [n for n in wanted if n.endswith("mlp.up_proj.weight") and n not in state]:
        gate = name.replace("up_proj", "gate_proj")
        if gate in state and len(state[gate]) % 2 == 0:
            state[gate], state[name] = state[gate].chunk(2)
    if tied and "model.embeddings.weight" in state:
        state.setdefault("lm_head.weight", state["model.embeddings.weight"])
    return state


def gla(
    *,
    hidden_size: int = 2048,
    num_hidden_layers: int = 24,
    num_heads: int = 4,
    num_kv_heads: int | None = None,
    expand_k: float = 0.5,
    expand_v: float = 1.0,
    hidden_ratio: float | None = 4,
    intermediate_size: int | None = None,
    feature_map: str | None = None,
    use_short_conv: bool = False,
    conv_size: int = 4,
    use_output_gate: bool = True,
    clamp_min: float | None = None,
    hidden_act: str = "swish",
    elementwise_affine: bool | None = True,
    norm_eps: float = 1e-6,
    fuse_norm: bool = True,
    gate_logit_normalizer: float = 16,
    gate_low_rank_dim: int = 16,
    attn: Mapping[str, Any] | None = None,
    vocab_size: int = 32000,
    tie_word_embeddings: bool = False,
    initializer_range: float = 0.02,
) -> GlaLanguageModel:
    """A gated linear attention language model; the words are those of its config.json.

    intermediate_size   width of the MLP; else hidden_size x hidden_ratio x 2/3, rounded down,
                        then up to a multiple of 256
    elementwise_affine  whether the norm of the heads has weights
    fuse_norm           only names that norm: g_norm_swish_gate, else g_norm
    attn                layers that are causal softmax attention with rotary positions instead:
                        layers (numbers), num_heads, num_kv_heads, window_size, rope_theta, qkv_bias
    """
    hidden = intermediate_size or -(-int(hidden_size * (hidden_ratio or 4) * 2 / 3) // 256) * 256
    act = config_activation(hidden_act)
    softmax_layers = set((attn or {}).get("layers", ()))

    def mixer(n: int) -> nn.Module:
        if attn is not None and n in softmax_layers:
            return _softmax_attention(hidden_size, attn)
        return GatedLinearAttention(
            hidden_size,
            num_heads,
            num_kv_heads,
            expand_k=expand_k,
            expand_v=expand_v,
            feature_map=feature_map,
            conv_size=conv_size if use_short_conv else 0,
            output_gate=use_output_gate,
            act=hidden_act,
            affine=bool(elementwise_affine),
            eps=norm_eps,
            clamp_min=clamp_min,
            fuse_norm=fuse_norm,
            normalizer=gate_logit_normalizer,
            low_rank=gate_low_rank_dim,
        )

    blocks = [
        Block(hidden_size, mixer(n), GatedMlp(hidden_size, hidden, act), norm_eps)
        for n in range(num_hidden_layers)
    ]
    trunk = Trunk("embeddings", vocab_size, hidden_size, blocks, norm_eps)
    return GlaLanguageModel(trunk, tied=tie_word_embeddings, std=initializer_range)


def _softmax_attention(dim: int, attn: Mapping[str, Any]) -> RotaryAttention:
    if "num_heads" not in attn:
        raise OptionError("attn of a gla model names layers but no num_heads: give both")
    return RotaryAttention(
        dim,
        attn["num_heads"],
        attn.get("num_kv_heads"),
        window=attn.get("window_size"),
        theta=attn.get("rope_theta") or 10000.0,
        bias=bool(attn.get("qkv_bias")),
    )


def published(repository: str) -> dict[str, Source]:
    """The weights of a hub repository."""
    return {"hub": Source(hub=repository, file="model.safetensors")}


VARIANTS = (
    Variant("gla"),  # any configuration over the library's defaults
    Variant(
        "gla_340m",
        build={"hidden_size": 1024, "tie_word_embeddings": True},
        weights=published("fla-hub/gla-340M-15B"),
    ),
    Variant("gla_1.3b", build={"hidden_size": 2048}, weights=published("fla-hub/gla-1.3B-100B")),
    Variant(
        "gla_2.7b",
        build={"hidden_size": 2560, "num_hidden_layers": 32, "num_heads": 5},
        weights=published("fla-hub/gla-2.7B-100B"),
    ),
    Variant(
        "gla_7b",
        build={
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "num_heads": 32,
            "num_kv_heads": 8,
            "expand_k": 1.0,
            "intermediate_size": 14336,
            "norm_eps": 1e-5,
            "feature_map": "relu",
            "use_output_gate": False,
        },
    ),
)
register(
    gla,
    Card(
        "GLA",
        "Gated linear attention transformers with hardware-efficient training, arXiv 2312.06635",
        hidden=("model.layers.*",),
        heads=("model.layers.*.attn",),
        prefix=0,
        classifier="lm_head",
        labels="",
        about="token ids in; from_checkpoint reads any folder or hub repository with a config.json",
    ),
    VARIANTS,
)

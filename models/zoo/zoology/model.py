"""Language models on any sequence mixer (Zoology, arXiv 2312.04927), with the official names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ....probe.errors import OptionError
from ...card import MAPS, Card, Figure, State
from ...layers import Cache, Checkpointing, Memory, Mlp
from ...registry import Variant, register
from . import attention, base_conv, based, h3, hyena, rwkv
from .mixers import Spec, build_mixer, mixer, named

__all__ = [
    "ZoologyLanguageModel",
    "attention",
    "base_conv",
    "based",
    "h3",
    "hyena",
    "rwkv",
    "zoology",
]


@mixer("hybrid", "zoology.mixers.hybrid.Hybrid")
class Hybrid(nn.Module):
    """Layer i mixes as entry i modulo their number says."""

    def __init__(self, d_model: int, *, layer_idx: int = 0, configs: Sequence[Spec]) -> None:
        super().__init__()
        if not configs:
            raise OptionError("a hybrid was asked without mixers: give configs, one or more")
        self.mixer = build_mixer(configs[layer_idx % len(configs)], d_model, layer_idx)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        return self.mixer(x) if memory is None else self.mixer(x, memory)

    @property
    def shows(self) -> tuple[Figure, ...]:
        """The figures of the mixer which this layer has."""
        return self.mixer.shows  # type: ignore[return-value]

    def state_size(self, length: int) -> int | None:
        """That of the mixer which this layer has."""
        return self.mixer.state_size(length)  # type: ignore[operator]


class Embeddings(nn.Module):
    """Words, and learned positions where there are any."""

    def __init__(self, words: int, positions: int, dim: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(words, dim)
        self.position_embeddings = nn.Embedding(positions, dim) if positions else None

    def forward(self, ids: Tensor, start: int = 0) -> Tensor:
        """Ids at places from `start` on. Raises OptionError for more tokens than positions."""
        x, n = self.word_embeddings(ids), start + ids.shape[-1]
        if self.position_embeddings is None:
            return x
        if n > self.position_embeddings.num_embeddings:
            raise OptionError(
                f"{n} tokens were given, but this model has "
                f"{self.position_embeddings.num_embeddings} positions: give fewer, or build it "
                "with a larger max_position_embeddings"
            )
        return x + self.position_embeddings(torch.arange(start, n, device=ids.device))


class Layer(nn.Module):
    """x + mixer(norm1(x)), then x + state_mixer(norm2(x)), which may be norm2(x) itself."""

    def __init__(
        self, dim: int, sequence: nn.Module, state: nn.Module, eps: float, drop: float
    ) -> None:
        super().__init__()
        self.sequence_mixer, self.state_mixer = sequence, state
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.dropout1, self.dropout2 = nn.Dropout(drop), nn.Dropout(drop)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        normed, mixer = self.norm1(x), self.sequence_mixer
        mixed = mixer(normed) if memory is None else mixer(normed, memory)  # a plug-in has none
        x = x + self.dropout1(mixed)
        return x + self.dropout2(self.state_mixer(self.norm2(x)))


class Backbone(nn.Module):
    """Embeddings, layers and the last norm."""

    def __init__(
        self, embeddings: Embeddings, layers: Sequence[Layer], dim: int, eps: float, drop: float
    ) -> None:
        super().__init__()
        self.embeddings, self.layers = embeddings, nn.ModuleList(layers)
        self.dropout, self.ln_f = nn.Dropout(drop), nn.LayerNorm(dim, eps)


class ZoologyLanguageModel(Checkpointing, nn.Module):
    """Token ids `b n` in, logits `b n vocabulary` out; output weights are the embeddings.

    heads   the modules that mix tokens, layer by layer
    published_state_size   bytes of state that its configuration told, None where it told none
    """

    def __init__(self, backbone: Backbone, published_state_size: float | None = None) -> None:
        super().__init__()
        self.backbone, self.published_state_size = backbone, published_state_size
        words = backbone.embeddings.word_embeddings.weight
        self.lm_head = nn.Linear(words.shape[1], words.shape[0], bias=False)
        _init(self, len(backbone.layers))
        self.lm_head.weight = words
        self.heads = tuple(
            f"backbone.layers.{n}.sequence_mixer{'.mixer' * isinstance(mixing, Hybrid)}"
            for n, mixing in enumerate(self.sequence_mixers)
        )

    @property
    def sequence_mixers(self) -> tuple[nn.Module, ...]:
        """Those of the layers, in order."""
        return tuple(layer.sequence_mixer for layer in self.backbone.layers)  # type: ignore[misc]

    @property
    def shows(self) -> tuple[Figure, ...]:
        """The figures of the mixers that were asked for, each once."""
        own = [figure for mixing in self.sequence_mixers for figure in mixing.shows]  # type: ignore[union-attr]
        return (MAPS, *dict.fromkeys(own))

    def forward(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """Logits.

        cache   decoding: the call goes on where the last one with it ended, in any number of tokens
                a call. Attention keeps keys and values, Based and RWKV their states, a convolution
                the inputs that it reaches, and mixes them again. Raises OptionError for mixers that
                are not causal.
        """
        start = 0 if cache is None else cache.length
        x = self.backbone.dropout(self.backbone.embeddings(ids, start))
        for n, layer in enumerate(self.backbone.layers):
            x = self.through(layer, x) if cache is None else layer(x, cache.memory(n))
        if cache is not None:
            cache.length += ids.shape[1]
        return self.lm_head(self.backbone.ln_f(x))

    def state_size(self, length: int) -> int | None:
        """Bytes in float32 that the mixers keep of a sequence; None where one has no figure."""
        sizes = [mixing.state_size(length) for mixing in self.sequence_mixers]  # type: ignore[operator]
        return None if None in sizes else 4 * sum(sizes)

    def convert_state(self, state: State) -> State:
        """A file's entries; the tied output weights may be left out."""
        words = state.get("backbone.embeddings.word_embeddings.weight")
        return state if words is None else {"lm_head.weight": words, **state}


SMALLER = ("out_proj.weight", "fc2.weight", "output_linear.weight")


def _init(model: nn.Module, layers: int) -> None:
    """Weights normal with 0.02, those that write to the stream with 0.02 / sqrt(2 layers)."""
    for part in model.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=0.02)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
    for name, weight in model.named_parameters():
        if name.endswith(SMALLER):
            nn.init.normal_(weight, std=0.02 / (2 * layers) ** 0.5)


def zoology(
    *,
    d_model: int = 128,
    n_layers: int = 2,
    vocab_size: int = 8192,
    max_position_embeddings: int = 0,
    sequence_mixer: Spec | Sequence[Spec] = "attention",
    state_mixer: Spec = "identity",
    layer_norm_epsilon: float = 1e-5,
    embed_dropout: float = 0.1,
    resid_dropout: float = 0.0,
    pad_vocab_size_multiple: int = 1,
    upstream_state_size_bytes: float | None = None,
) -> ZoologyLanguageModel:
    """A language model whose layers mix tokens as asked.

    sequence_mixer   a name such as "hyena", {"name": ..., "kwargs": {...}} with that name or the
                     published class's path, or a list of either, which layers take in turn
    state_mixer      "identity", or "mlp", {"name": "mlp", "kwargs": {"hidden_mult": 4}}
    max_position_embeddings   learned positions, 0 for none; the published models of attention
                     have one a token, all others none
    pad_vocab_size_multiple   the vocabulary is made longer to a multiple of it
    upstream_state_size_bytes   a configuration's own word on its state, kept as
                     `published_state_size`; `state_size(length)` computes ours
    """
    hybrid = isinstance(sequence_mixer, Sequence) and not isinstance(sequence_mixer, str)
    spec: Any = (
        {"name": "hybrid", "kwargs": {"configs": sequence_mixer}} if hybrid else sequence_mixer
    )
    layers = [
        Layer(
            d_model,
            build_mixer(spec, d_model, n),
            _state_mixer(state_mixer, d_model),
            layer_norm_epsilon,
            resid_dropout,
        )
        for n in range(n_layers)
    ]
    words = -(-vocab_size // pad_vocab_size_multiple) * pad_vocab_size_multiple
    embeddings = Embeddings(words, max_position_embeddings, d_model)
    backbone = Backbone(embeddings, layers, d_model, layer_norm_epsilon, embed_dropout)
    return ZoologyLanguageModel(backbone, upstream_state_size_bytes)


def _state_mixer(spec: Spec, dim: int) -> nn.Module:
    name, kwargs = named(spec, "state_mixer")
    options: Mapping[str, Any] = kwargs
    if name in ("identity", "torch.nn.Identity") and not options:
        return nn.Identity()
    if name in ("mlp", "zoology.mixers.mlp.MLP") and set(options) <= {"hidden_mult"}:
        return Mlp(dim, int(dim * options.get("hidden_mult", 4)))
    raise OptionError(
        f"state_mixer {name!r} with {dict(options)!r} is not known: give 'identity', or 'mlp' with "
        "hidden_mult"
    )


def _variant(name: str, *mixers: Spec, about: str, positions: int = 0) -> Variant:
    """A row of the paper's comparison at 64 tokens."""
    spec = mixers[0] if len(mixers) == 1 else mixers
    build = {"sequence_mixer": spec, "max_position_embeddings": positions}
    return Variant(name, build=build, about=about)


SHORT: Spec = {"name": "baseconv", "kwargs": {"kernel_size": 3}}
LONG: Spec = {"name": "baseconv", "kwargs": {"kernel_size": -1, "l_max": 64}}
VARIANTS = (
    Variant("zoology", about="any configuration; attention without positions unless given"),
    _variant("zoology_attention", "attention", positions=64, about="causal, 64 learned positions"),
    _variant(
        "zoology_sliding",
        {"name": "sliding", "kwargs": {"block_size": 8}},
        about="attention to 8 tokens before; no positions",
    ),
    _variant(
        "zoology_selective",
        "selective",
        positions=64,
        about="attention where a softmax over positions selects; not causal",
    ),
    _variant("zoology_baseconv", SHORT, LONG, about="gated convolutions, 3 taps and 64 in turn"),
    _variant(
        "zoology_hyena",
        {"name": "hyena", "kwargs": {"l_max": 64}},
        about="order 2, at most 64 tokens",
    ),
    _variant(
        "zoology_based",
        SHORT,
        {"name": "based", "kwargs": {"feature_dim": 8, "num_heads": 1, "num_key_value_heads": 1}},
        about="3 taps and attention by a Taylor series in turn; any number of tokens",
    ),
    _variant("zoology_rwkv", "rwkv", about="the time mixing of RWKV-4; any number of tokens"),
    _variant("zoology_h3", {"name": "h3", "kwargs": {"l_max": 64}}, about="at most 64 tokens"),
)
register(
    zoology,
    Card(
        "Zoology",
        "Zoology: measuring and improving recall in efficient language models, arXiv 2312.04927",
        hidden=("backbone.layers.*",),
        heads=("backbone.layers.*.sequence_mixer",),
        prefix=0,
        classifier="lm_head",
        labels="",
        about="token ids in; sequence_mixer= names the mixers; no published weights",
    ),
    VARIANTS,
    fixed={"tied_lm_head": True, "block_type": "TransformerBlock", "drop_path": 0.0},
)

"""Attention-only language models (A Mathematical Framework for Transformer Circuits, 2021)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from ....kernels.attention import attention
from ....probe.errors import OptionError
from ...card import Card, Source, State
from ...layers import Checkpointing, Mlp, activation, init_weights
from ...registry import Variant, register
from .names import own_names

Norm = Literal["LN", "LNPre"] | None


class CausalAttention(nn.Module):
    """out(softmax(q k' / sqrt(d)) v) over `b n c`, where a token sees itself and those before."""

    def __init__(self, dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * num_heads * head_dim)
        self.out = nn.Linear(num_heads * head_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(attention(q, k, v, causal=True).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """x + attention(norm(x)); then, where there is an MLP, x + MLP(mlp_norm(x))."""

    def __init__(self, attn: nn.Module, mlp: nn.Module | None, norm: Callable[[], nn.Module]):
        super().__init__()
        self.norm, self.attn = norm(), attn
        self.mlp_norm = None if mlp is None else norm()
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm(x))
        if self.mlp is None or self.mlp_norm is None:
            return x
        return x + self.mlp(self.mlp_norm(x))


class AttentionOnly(Checkpointing, nn.Module):
    """Token ids `b n` in, logits `b n vocabulary` out; learned positions are added once."""

    def __init__(
        self, layers: list[Layer], *, vocabulary: int, dim: int, context: int, norm: nn.Module
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, dim)
        self.pos_embed = nn.Embedding(context, dim)
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self.unembed = nn.Linear(dim, vocabulary, bias=False)
        draw = partial(nn.init.normal_, std=0.8 * dim**-0.5)
        init_weights(self, nn.Linear, nn.Embedding, draw=draw)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits. Raises OptionError for more tokens than there are positions."""
        n = ids.shape[-1]
        if n > self.pos_embed.num_embeddings:
            raise OptionError(
                f"{n} tokens were given, but this model has {self.pos_embed.num_embeddings} "
                "positions: give fewer, or build it with a larger n_ctx"
            )
        x = self.embed(ids) + self.pos_embed(torch.arange(n, device=ids.device))
        for layer in self.layers:
            x = self.through(layer, x)
        return self.unembed(self.norm(x))

    def convert_state(self, state: State) -> State:
        """A file's entries under this model's names, those of TransformerLens included.

        The model takes on an output bias where the file has one that is not zero.
        """
        state = own_names(state)
        bias = state.get("unembed.bias")
        if bias is not None and self.unembed.bias is None:
            if bias.any():
                self.unembed.bias = nn.Parameter(torch.zeros_like(self.unembed.weight[:, 0]))
            else:
                del state["unembed.bias"]
        return state


def attention_only(
    *,
    vocab_size: int = 64,
    d_model: int = 64,
    n_layers: int = 2,
    n_heads: int = 4,
    n_ctx: int = 64,
    d_head: int | None = None,
    norm: Norm = "LN",
    norm_eps: float = 1e-5,
    d_mlp: int | None = None,
    attn_only: bool | None = None,
    act_fn: str = "gelu_new",
) -> AttentionOnly:
    """A causal transformer of attention alone, or with MLPs.

    d_head     d_model / n_heads unless given
    norm       before each attention, each MLP and the output: LN has weights, LNPre none
    d_mlp      the width of the MLPs; 4 d_model unless given
    attn_only  whether there are none: by default so unless d_mlp is given
    act_fn     gelu, gelu_new (by tanh), relu, silu or any other activation
    """
    if norm not in ("LN", "LNPre", None):
        raise OptionError(f"norm {norm!r} is not known: give 'LN', 'LNPre' or None")
    activation(act_fn)  # refused even where no MLP asks for it
    if d_head is None and (n_heads < 1 or d_model % n_heads):
        raise OptionError(
            f"d_model={d_model} does not divide into n_heads={n_heads}: give d_head, their width"
        )
    width = d_head or d_model // n_heads
    alone = d_mlp is None if attn_only is None else attn_only

    def normal() -> nn.Module:
        if norm is None:
            return nn.Identity()
        return nn.LayerNorm(d_model, norm_eps, elementwise_affine=norm == "LN")

    def layer() -> Layer:
        mlp = None if alone else Mlp(d_model, d_mlp or 4 * d_model, act_fn, names=("up", "down"))
        return Layer(CausalAttention(d_model, n_heads, width), mlp, normal)

    layers = [layer() for _ in range(n_layers)]
    return AttentionOnly(layers, vocabulary=vocab_size, dim=d_model, context=n_ctx, norm=normal())


INDUCTION = Source(package="limelight.models.zoo.attention_only", file="induction_2l.safetensors")
VARIANTS = (
    Variant(
        "attention_only",
        about="any configuration, with or without MLPs; reads files of TransformerLens",
    ),
    Variant(
        "induction_2l",
        weights={"induction": INDUCTION},
        about="continues blocks of 8 to 31 random tokens that repeat, 99.7 % right after the "
        "first; head 0.2 attends to the previous token, layer 1 copies; shipped with limelight",
        card={"default": "induction"},
    ),
)
register(
    attention_only,
    Card(
        "attention-only transformer",
        "A mathematical framework for transformer circuits, Elhage and others 2021",
        hidden=("layers.*",),
        heads=("layers.*.attn",),
        prefix=0,
        classifier="unembed",
        labels="",
    ),
    VARIANTS,
)

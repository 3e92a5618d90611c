"""Language models of sigmoid attention (arXiv 2409.04431), with the names of its simulator."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ...kernels.attention import attention
from ...kernels.shared import wide
from ...probe.errors import OptionError, near
from ...probe.sites import Tokenizer
from ..card import MAPS, ROW_SUMS, Card
from ..layers import (
    Block,
    Cache,
    Checkpointing,
    Memory,
    Mlp,
    ScaledBlock,
    init_weights,
    kept_tokens,
)
from ..registry import Variant, register

ACTIVATIONS = {  # of scores: which, and the power of 1 / (i + 1) that row i is multiplied by
    "softmax": ("softmax", 0.0),
    "sigmoid": ("sigmoid", 0.0),
    "sqrt_seq_len_normalized_sigmoid": ("sigmoid", 0.5),
    "seq_len_normalized_sigmoid": ("sigmoid", 1.0),
}
KINDS = ("rope", "alibi", "sincos", "none")


class CausalAttention(nn.Module):
    """proj(act(exp(temp) (q k' / sqrt(d) + positions) + bias) v) over `b n c`.

    attn_bias, attn_temp   buffers of one number, -ln n and 0 in the paper
    Ports: q, k, v, bias, slopes, row_factor, heads and map of the op.
    """

    attn_bias: Tensor
    attn_temp: Tensor
    slopes: Tensor | None

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        kind: str,
        act: str,
        bias: float | None,
        temp: float | None,
        qk_norm: bool,
        eps: float,
    ) -> None:
        super().__init__()
        self.num_heads, self.kind = num_heads, kind
        self.score, self.power = ACTIVATIONS[act]
        size = dim // num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_norm = nn.LayerNorm(size, eps) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(size, eps) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim, bias=False)
        self.register_buffer("attn_bias", torch.tensor([0.0 if bias is None else float(bias)]))
        self.register_buffer("attn_temp", torch.tensor([0.0 if temp is None else float(temp)]))
        slopes = torch.tensor(alibi_slopes(num_heads))
        self.register_buffer("slopes", slopes if kind == "alibi" else None, persistent=False)

    def forward(
        self, x: Tensor, keep: Tensor | None = None, memory: Memory | None = None
    ) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        start = memory["k"].shape[2] if memory else 0
        if self.kind == "rope":
            q, k = turned(q, start), turned(k, start)
        k, v, keep = _remembered(k, v, keep, memory)
        heat = self.attn_temp.exp().to(q.dtype)
        out = attention(
            q * (heat * q.shape[-1] ** -0.5),
            k,
            v,
            bias=self.attn_bias.to(q.dtype),
            slopes=None if self.slopes is None else self.slopes.to(q.dtype) * heat,
            keep=keep,
            causal=True,
            scale=1.0,
            score=self.score,
            row_factor=self.factors(start, q),
        )
        return self.proj(out.transpose(1, 2).flatten(2))

    def factors(self, start: int, q: Tensor) -> Tensor | None:
        """1 / (i + 1)^power of each query's place i, `n`; None where rows keep their sums."""
        if not self.power:
            return None
        places = torch.arange(start, start + q.shape[2], device=q.device) + 1
        return wide(places).pow(-self.power).to(q.dtype)


def alibi_slopes(heads: int) -> list[float]:
    """ALiBi's slopes (arXiv 2108.12409): 2^(-8 k / heads), k = 1 .. heads.

    For other numbers than powers of two those of the next lower one, then every second slope of
    twice that.
    """
    low = 1 << (heads.bit_length() - 1)
    slopes = [2 ** (-8 * (k + 1) / low) for k in range(low)]
    return slopes if low == heads else slopes + alibi_slopes(2 * low)[::2][: heads - low]


def turned(x: Tensor, start: int) -> Tensor:
    """Turn each pair (2 i, 2 i + 1) of `b h n d` by its place, from `start`, x 10000^(-2i/d)."""
    n, d = x.shape[-2:]
    powers = torch.arange(0, d, 2, device=x.device, dtype=torch.float32) / d
    places = torch.arange(start, start + n, device=x.device, dtype=torch.float32)
    angle = places[:, None] * 10000.0**-powers
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def waves(start: int, n: int, like: Tensor) -> Tensor:
    """Positions to add, `n c`: sin(t w_i) in even channels, cos in odd, w_i = 10000^(-2i/c)."""
    dim = like.shape[-1]
    powers = torch.arange(0, dim, 2, device=like.device, dtype=torch.float32) / dim
    places = torch.arange(start, start + n, device=like.device, dtype=torch.float32)
    angle = places[:, None] * 10000.0**-powers
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)[:, :dim].to(like.dtype)


def _remembered(
    k: Tensor, v: Tensor, keep: Tensor | None, memory: Memory | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys, values and which of them are no padding, with those of earlier calls in front."""
    if memory is None:
        return k, v, keep
    here = k.new_ones(len(k), k.shape[2], dtype=torch.bool) if keep is None else keep
    if memory:
        k, v = torch.cat([memory["k"], k], 2), torch.cat([memory["v"], v], 2)
        here = torch.cat([memory["keep"], here], 1)
    memory.update(k=k, v=v, keep=here)
    return k, v, here


class OutputEmbedding(nn.Module):
    """linear(norm(x)): the logits."""

    def __init__(self, dim: int, vocabulary: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps)
        self.linear = nn.Linear(dim, vocabulary, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x))


class SigmoidLanguageModel(Checkpointing, nn.Module):
    """Token ids `b n` in, logits `b n vocabulary` out; no dropout."""

    tokenizer: Tokenizer | None = None

    def __init__(
        self, blocks: list[Block], *, vocabulary: int, dim: int, eps: float, waves: bool
    ) -> None:
        super().__init__()
        self.waves = waves
        self.input_embedding = nn.Embedding(vocabulary, dim)
        self.output_embedding = OutputEmbedding(dim, vocabulary, eps)
        self.blocks = nn.ModuleList(blocks)
        init_weights(self, nn.Linear, nn.Embedding)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        logits_to_keep: int = 0,
    ) -> Tensor:
        """Logits, of the last `logits_to_keep` tokens where that is not 0.

        attention_mask   `b n`, 0 at padding: hidden as a key, though it keeps its place; a query
                         that only padding precedes gives zeros in attention; of a longer
                         mask the last n columns count
        cache            decoding: the call goes on where the last one with it ended
        """
        keep = kept_tokens(attention_mask, input_ids)
        x = self.input_embedding(input_ids)
        if self.waves:
            x = x + waves(0 if cache is None else cache.length, x.shape[1], x)
        for n, block in enumerate(self.blocks):
            memory = None if cache is None else cache.memory(n)
            x = self.through(block, x, keep) if cache is None else block(x, keep, memory)
        if cache is not None:
            cache.length += input_ids.shape[1]
        return self.output_embedding(x[:, -logits_to_keep:])


def sigmoid_attention(
    *,
    d_model: int = 384,
    num_heads: int = 12,
    num_blocks: int = 1,
    mlp_dim: int | None = None,
    vocab_size: int = 32100,
    kind: str = "rope",
    act: str = "sigmoid",
    attn_bias: float | None = None,
    attn_temp: float | None = None,
    qk_norm: bool = True,
    layer_scale: bool | float = False,
    block_norm_eps: float = 1e-5,
    output_norm_eps: float = 1e-6,
    qk_norm_eps: float = 1e-5,
) -> SigmoidLanguageModel:
    """A causal language model whose attention is a sigmoid of its scores, or their softmax.

    mlp_dim      4 d_model unless given
    kind         positions: rope, alibi, sincos or none
    act          sigmoid, softmax, seq_len_normalized_sigmoid (row i times 1 / (i + 1)) or
                 sqrt_seq_len_normalized_sigmoid (its root)
    attn_bias    b, added to all scores; -ln n for sequences of n tokens keeps row sums near 1,
                 None is 0
    attn_temp    t, scores are multiplied by exp(t); None is 0
    layer_scale  whether branches have one, which starts at 1e-4 or at the number given
    """
    if act not in ACTIVATIONS:
        hint = near(act, ACTIVATIONS) or "; there are " + ", ".join(ACTIVATIONS)
        raise OptionError(f"sigmoid attention has no act {act!r}{hint}")
    if kind not in KINDS:
        raise OptionError(f"positions are {', '.join(KINDS)}, not {kind!r}: give kind one of them")
    if num_heads < 1 or d_model % num_heads or (kind == "rope" and d_model // num_heads % 2):
        raise OptionError(
            f"d_model={d_model} does not divide into {num_heads} heads"
            f"{' of even width, as rope asks' if kind == 'rope' else ''}: give others that do"
        )
    start = 1e-4 if layer_scale is True else float(layer_scale or 0)
    block = partial(ScaledBlock, start=start) if start else Block

    def mixer() -> nn.Module:
        return CausalAttention(
            d_model,
            num_heads,
            kind=kind,
            act=act,
            bias=attn_bias,
            temp=attn_temp,
            qk_norm=qk_norm,
            eps=qk_norm_eps,
        )

    blocks = [
        block(d_model, mixer(), Mlp(d_model, mlp_dim or 4 * d_model, bias=False), block_norm_eps)
        for _ in range(num_blocks)
    ]
    return SigmoidLanguageModel(
        blocks,
        vocabulary=vocab_size,
        dim=d_model,
        eps=output_norm_eps,
        waves=kind == "sincos",
    )


VARIANTS = (
    Variant("sigmoid_attention", about="token ids in; any configuration"),
    Variant(
        "sigmoid_attention_tiny_shakespeare",
        build={"attn_bias": -10.0},
        about="token ids in, trained on 64 of them",
    ),
    Variant(
        "sigmoid_attention_realnews",
        build={"d_model": 3072, "kind": "alibi"},
        about="token ids in, trained on 2048 of them; ALiBi takes the place of the bias",
    ),
)
register(
    sigmoid_attention,
    Card(
        "Sigmoid attention",
        "Theory, analysis, and best practices for sigmoid self-attention, arXiv 2409.04431",
        hidden=("blocks.*",),
        heads=("blocks.*.attn",),
        prefix=0,
        classifier="output_embedding.linear",
        labels="",
        shows=(MAPS, ROW_SUMS),
    ),
    VARIANTS,
    fixed={"mask": "causal", "softmax_scale": "head_dim**-0.5 on q"},
)

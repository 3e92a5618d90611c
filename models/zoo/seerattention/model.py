"""SeerAttention on Llama-type models (arXiv 2410.13276, 2506.08889), with its hub files' names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ....probe.errors import OptionError, WeightsError
from ...card import MAPS, Card, Figure, State
from ...layers import GatedMlp, LanguageModel, Memory, RmsNorm, Trunk
from ...registry import Variant, register
from ...weights import read_state
from .attention import SeerAttention, Sizes
from .distillation import LayerGate, compare_gates
from .gates import DecodeGate, HeadLinear, PrefillGate, pools_of
from .positions import Rotation
from .sparsity import DECODE, PREFILL, Sparsity

GATE = ".self_attn.attn_gate."


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, dim: int, attn: SeerAttention, mlp: nn.Module, eps: float) -> None:
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


class SeerLanguageModel(LanguageModel):
    """A Llama with gates. A base model's file loads too; `load_gates` then brings the gates."""

    def convert_state(self, state: State) -> State:
        """A hub file's entries; one without gates draws them, to be loaded or distilled."""
        state = {n: x for n, x in state.items() if not n.endswith("rotary_emb.inv_freq")}
        state = super().convert_state(state)
        missing = not any(GATE in name for name in state)
        if missing:
            for part in self.modules():
                if isinstance(part, HeadLinear):
                    part.reset_parameters()
            state |= {n: x for n, x in self.state_dict().items() if GATE in n}
        self._mark(missing)
        return state

    def load_gates(self, file: str | Path) -> None:
        """Copy the gates of a hub file beside the base's weights. Raises WeightsError."""
        read = read_state(Path(file).expanduser())
        found = {n if n.startswith("model.") else f"model.{n}": x for n, x in read.items()}
        own = {n: x for n, x in self.state_dict().items() if GATE in n}
        apart = sorted(set(found) ^ set(own))
        apart += [n for n in found if n in own and found[n].shape != own[n].shape]
        if apart:
            raise WeightsError(
                f"gates file {str(file)!r} does not fit: {len(apart)} entries are missing, "
                f"unexpected or of another shape, first {apart[0]!r}; build the model with the "
                "seerattn_gate_type and base of that file"
            )
        self.load_state_dict(found, strict=False)
        self._mark(False)

    def compare_gates(self, input_ids: Tensor, seed: int = 0) -> tuple[LayerGate, ...]:
        """Each layer's gate beside the pooled attention of a dense pass. Raises OptionError."""
        return compare_gates(self, input_ids, seed)

    def gate_parameters(self) -> Iterator[nn.Parameter]:
        """The weights that distillation trains."""
        return (p for name, p in self.named_parameters() if GATE in name)

    def _mark(self, missing: bool) -> None:
        for module in self.modules():
            if isinstance(module, SeerAttention):
                module.missing = missing


def seerattention(
    *,
    hidden_size: int = 4096,
    intermediate_size: int = 14336,
    num_hidden_layers: int = 32,
    num_attention_heads: int = 32,
    num_key_value_heads: int | None = None,
    head_dim: int | None = None,
    max_position_embeddings: int = 131072,
    rms_norm_eps: float = 1e-5,
    rope_theta: float = 10000.0,
    rope_scaling: Mapping[str, Any] | None = None,
    use_flash_rope: bool = False,
    fused_norm: bool = False,
    attention_bias: bool = False,
    qkv_bias: bool = False,
    mlp_bias: bool = False,
    vocab_size: int = 32000,
    tie_word_embeddings: bool = False,
    initializer_range: float = 0.02,
    seerattn_gate_type: str = "Qavg_Kmaxminavg",
    seerattn_gate_block_size: int = 64,
    seerattn_gate_hidden_size: int = 128,
    seerattn_gate_force_double: bool = False,
    seerattn_sparsity_method: str = "threshold",
    seerattn_threshold: float = 0.0,
    seerattn_nz_ratio: float = 1.0,
    seerattn_last_block_dense: bool = True,
    seerattn_token_budget: int = 2048,
    seerattn_use_qk_norm: bool = False,
    threshold_margin_l0: float | None = None,
    measured_causal_block_density: Sequence[float] | None = None,
) -> SeerLanguageModel:
    """A Llama-type language model with gates; the words are those of its config.json.

    seerattn_gate_type        pools of queries and keys, Qavg_Kmaxminavg; Qproj_K... and
                              Qavgproj_K... are decode gates: prompts are dense, steps sparse
    seerattn_gate_force_double  projects queries of one pool too
    seerattn_sparsity_method  threshold, nz_ratio or dense; a decode gate has threshold,
                              token_budget or dense. See Sparsity
    seerattn_use_qk_norm      normalises what a decode gate compares
    qkv_bias                  biases of q, k and v alone, as Qwen2.5 has
    rope_scaling              None or the llama3 kind
    max_position_embeddings, use_flash_rope, fused_norm, threshold_margin_l0 and
    measured_causal_block_density stand in configs and change nothing: they name a limit, faster
    kernels and what was measured.
    """
    groups = num_key_value_heads or num_attention_heads
    size = head_dim or hidden_size // num_attention_heads
    if (not head_dim and hidden_size % num_attention_heads) or num_attention_heads % groups:
        raise OptionError(
            f"{hidden_size} channels do not divide into {num_attention_heads} heads of {groups} "
            "groups: give num_attention_heads that divide hidden_size and num_key_value_heads "
            "that divide those"
        )
    if size % 2 or seerattn_gate_hidden_size != size:
        raise OptionError(
            f"a gate of width {seerattn_gate_hidden_size} does not turn with heads of {size}: its "
            "positions are those of the heads; give seerattn_gate_hidden_size = head_dim, even"
        )
    if seerattn_gate_block_size < 1:
        raise OptionError(
            f"blocks have at least 1 token: seerattn_gate_block_size={seerattn_gate_block_size}"
        )
    pools = pools_of(seerattn_gate_type)
    sparsity = Sparsity(
        seerattn_sparsity_method,
        seerattn_threshold,
        seerattn_nz_ratio,
        seerattn_token_budget,
        seerattn_last_block_dense,
    )
    sparsity.check(DECODE if pools.decodes else PREFILL)
    bias = attention_bias or qkv_bias
    sizes = Sizes(hidden_size, num_attention_heads, groups, size, bias, attention_bias)
    turn = Rotation(rope_theta, rope_scaling)

    def gate() -> PrefillGate | DecodeGate:
        shape = num_attention_heads, groups, size, seerattn_gate_hidden_size
        if pools.decodes:
            return DecodeGate(pools, *shape, rms_norm_eps if seerattn_use_qk_norm else None)
        return PrefillGate(pools, *shape, double=seerattn_gate_force_double)

    blocks = [
        Block(
            hidden_size,
            SeerAttention(sizes, gate(), seerattn_gate_block_size, sparsity, turn),
            GatedMlp(hidden_size, intermediate_size, bias=mlp_bias),
            rms_norm_eps,
        )
        for _ in range(num_hidden_layers)
    ]
    trunk = Trunk("embed_tokens", vocab_size, hidden_size, blocks, rms_norm_eps)
    return SeerLanguageModel(trunk, tied=tie_word_embeddings, std=initializer_range)


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def _llama31(**shape: int) -> dict[str, Any]:
    return {
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "rope_theta": 500000.0,
        "rope_scaling": LLAMA3,
        **shape,
    }


def _qwen25(*shape: int, eps: float = 1e-5, **more: Any) -> dict[str, Any]:
    dim, inner, layers, heads, groups = shape
    return {
        "hidden_size": dim,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "rms_norm_eps": eps,
        "rope_theta": 1000000.0,
        "vocab_size": 152064,
        "qkv_bias": True,
        **more,
    }


def _about(gates: str, base: str) -> str:
    return f"token ids in; weights: those of {base}, then load_gates of hub SeerAttention/{gates}"


QWEN_14B, QWEN_32B = (5120, 13824, 48, 40, 8), (5120, 27648, 64, 40, 8)
ROWS: tuple[tuple[str, dict[str, Any], str, str], ...] = (
    (
        "seerattention_llama_3.1_8b",
        _llama31(),
        "SeerAttention-Llama-3.1-8B-AttnGates",
        "Llama-3.1-8B-Instruct",
    ),
    (
        "seerattention_llama_3.1_70b",
        _llama31(
            hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64
        ),
        "SeerAttention-Llama-3.1-70B-AttnGates",
        "Llama-3.1-70B-Instruct",
    ),
    (
        "seerattention_qwen2.5_7b",
        _qwen25(3584, 18944, 28, 28, 4, eps=1e-6),
        "SeerAttention-Qwen2.5-7B-AttnGates",
        "Qwen2.5-7B-Instruct",
    ),
    (
        "seerattention_qwen2.5_14b",
        _qwen25(*QWEN_14B, eps=1e-6),
        "SeerAttention-Qwen2.5-14B-AttnGates",
        "Qwen2.5-14B-Instruct",
    ),
    (
        "seerattention_qwen2.5_32b",
        _qwen25(*QWEN_32B, eps=1e-6),
        "SeerAttention-Qwen2.5-32B-AttnGates",
        "Qwen2.5-32B-Instruct",
    ),
    (
        "seerattention_r1_qwen_14b",
        _qwen25(*QWEN_14B),
        "SeerAttention-DeepSeek-R1-Distill-Qwen-14B-AttnGates",
        "DeepSeek-R1-Distill-Qwen-14B",
    ),
    (
        "seerattention_r1_qwen_32b",
        _qwen25(*QWEN_32B),
        "SeerAttention-DeepSeek-R1-Distill-Qwen-32B-AttnGates",
        "DeepSeek-R1-Distill-Qwen-32B",
    ),
)
GATES = (
    Figure(
        "Gates beside pooled attention",
        "gates",
        about="The gate's probability of each block of keys, and the largest attention in it, rows "
        "normalised, which the gate should predict.",
    ),
    Figure(
        "Density",
        "gate density",
        about="The share of the blocks up to the diagonal that the gate chooses.",
    ),
    Figure(
        "Mass kept",
        "gate mass",
        about="Dense attention's mass in the chosen blocks, beside as many that hold the most "
        "(oracle), lie nearest to the query (local) or are drawn (random).",
    ),
)
register(
    seerattention,
    Card(
        "SeerAttention",
        "SeerAttention: learning intrinsic sparse attention in your LLMs, arXiv 2410.13276",
        hidden=("model.layers.*",),
        heads=("model.layers.*.self_attn",),
        prefix=0,
        classifier="lm_head",
        labels="",
        shows=(MAPS, *GATES),
    ),
    (
        Variant("seerattention", about="token ids in; any Llama with gates"),
        *(
            Variant(name, build=build, about=_about(gates, base))
            for name, build, gates, base in ROWS
        ),
    ),
)

"""Configurations of transformers made small: few layers, narrow ones, a short vocabulary."""

from __future__ import annotations

import re
from typing import Any

VOCABULARY = 160
_LAYERS = re.compile(
    r"(num_hidden_layers|n_layers?|num_layers|depth|(en|de)coder_layers|num_(en|de)coder_layers"
    r"|num_(en|de)coder_hidden_layers|(speech|text|t2u|semantic|coarse)_.*layers|num_block_layers"
    r"|.*_num_(hidden_)?layers|predictor_num_hidden_layers|layers|num_lstm_layers"
    r"|num_adapter_layers|.*num_attn_blocks)"
)
_SIZES = {  # narrow and wide
    r"(hidden_size|d_model|n_embd|dim|embed_dim|embedding_size|emb_dim|hidden_dim|projection_dim"
    r"|encoder_hidden_dim|word_embed_proj_dim|d_embed|out_hidden_size|text_hidden_size|width"
    r"|projection_size|.*_hidden_size|(en|de)coder_hidden_dim|output_dim|fpn_hidden_size"
    r"|text_embed_dim|vision_embed_dim|project_dim|classifier_proj_size|xvector_output_dim"
    r"|dec_n_embd|attention_hidden_size|lru_width|conv_dim_|hidden_channels|base_dim)": (32, 256),
    r"(num_attention_heads|n_heads?|num_heads|(en|de)coder_attention_heads|num_(en|de)coder_heads"
    r"|.*num_attention_heads|.*_attention_heads|conf_num_attention_heads)": (4, 2),
    r"(num_key_value_heads|.*num_key_value_heads|n_kv_heads?|num_kv_heads)": (2, 2),
    r"(head_dim|d_kv|d_head|kv_channels|.*head_dim|qk_nope_head_dim|v_head_dim|index_head_dim"
    r"|linear_(key|value)_head_dim|attention_head_dim)": (8, 128),
    r"(qk_rope_head_dim|rotary_dim)": (8, 64),
    r"(q_lora_rank|kv_lora_rank|index_n_heads)": (8, 64),
    r"(.*intermediate_size|(en|de)coder_ffn_dim|ffn_dim|d_ff|d_inner|mlp_dim|n_inner|dim_ff"
    r"|dim_feedforward|.*_ffn_dim|feed_forward_size|dff|ffn_hidden_size|moe_hidden_size"
    r"|encoder_feedforward_dim|feedforward_dim)": (48, 384),
    r"(n_routed_experts|num_(local_)?experts|moe_num_experts)": (4, 4),
    r"(num_experts_per_tok|num_experts_per_token|moe_topk|moe_k|top_k_experts|moe_top_k)": (2, 2),
    r"(n_group|topk_group)": (1, 1),
    r"(linear_num_key_heads)": (2, 1),
    r"(linear_num_value_heads|linear_num_heads)": (4, 2),
    r"(max_position_embeddings|n_positions|max_seq_len|n_ctx|max_source_positions"
    r"|max_target_positions)": (128, 128),
    r"(num_queries|two_stage_num_proposals)": (8, 8),
    r"(state_size|ssm_state_size|mamba_d_state)": (8, 8),
}
_PER_STAGE = re.compile(
    r"(hidden_sizes|embed_dims|neck_hidden_sizes|dims|channels|out_channels|embed_dim)"
)
_DEPTHS = re.compile(r"(depths|num_layers|layer_depths|encoder_depths|blocks_per_stage)")
_IDS = re.compile(
    r".*(token|pad|bos|eos|unk|sep|cls|mask|_start|_end)_?(id|index|idx)s?$|.*_token_id"
)


def shrunk(config: Any, width: int = 32) -> Any:
    """The configuration itself, with fewer layers, as wide as asked; 0 leaves the widths.

    Widths of 32 have four heads; wider ones have heads of 128, which some rotations ask for.
    """
    for _, part in _parts(config):
        shrunk(part, width)
    _shorten(config)
    _words(config)
    if width:
        _narrow(config, width)
    return config


def _parts(config: Any) -> list[tuple[str, Any]]:
    return [
        (k, v)
        for k, v in vars(config).items()
        if hasattr(v, "to_dict") and hasattr(v, "model_type")
    ]


def _put(config: Any, key: str, value: Any) -> None:
    """Set a field, unless the configuration does not let it be set."""
    try:
        setattr(config, key, value)
    except (TypeError, ValueError, AttributeError, NotImplementedError):
        return


def _shorten(config: Any) -> None:
    """Two layers, or one of each kind where there are several kinds."""
    fields = dict(vars(config))
    kinds = fields.get("layer_types") or fields.get("layers_block_type") or ()
    count = max(2, len(set(kinds)))
    lengths = {v for k, v in fields.items() if _LAYERS.fullmatch(k) and isinstance(v, int)}
    order = [i for i, kind in enumerate(kinds) if kind not in kinds[:i]]
    order += [i for i in range(len(kinds)) if i not in order]
    order = sorted(order[:count])
    for key, value in fields.items():
        if _LAYERS.fullmatch(key) and isinstance(value, int) and not isinstance(value, bool):
            _put(config, key, min(value, count))
        elif isinstance(value, (list, tuple)) and len(value) in lengths and len(value) > count:
            keep = order if len(kinds) == len(value) else list(range(count))
            if not (_PER_STAGE.fullmatch(key) or _DEPTHS.fullmatch(key)):
                _put(config, key, type(value)(value[i] for i in keep))
        elif _DEPTHS.fullmatch(key) and isinstance(value, (list, tuple)):
            _put(config, key, type(value)(min(int(v), 2) for v in value))


def _words(config: Any) -> None:
    """A short vocabulary; ids of special tokens lie at its end, each its own."""
    fields = dict(vars(config))
    sizes = [k for k, v in fields.items() if k.endswith("vocab_size") and isinstance(v, int)]
    for key in sizes:
        if key != "type_vocab_size" and fields[key] > VOCABULARY:
            _put(config, key, VOCABULARY)
    last = VOCABULARY
    for key, value in fields.items():
        if _IDS.fullmatch(key) and isinstance(value, int) and value >= VOCABULARY - 40:
            last -= 1
            _put(config, key, last)


def _narrow(config: Any, width: int) -> None:
    fields = dict(vars(config))
    for key, value in fields.items():
        if isinstance(value, bool):
            continue
        if isinstance(value, int):
            for pattern, (narrow, wide) in _SIZES.items():
                if re.fullmatch(pattern, key):
                    _put(config, key, min(value, narrow if width == 32 else wide))
                    break
        elif _PER_STAGE.fullmatch(key) and value and all(isinstance(v, int) for v in value):
            scale = max(1, min(value) // 16)
            _put(config, key, type(value)(max(v // scale, 8) for v in value))
    heads, keys = fields.get("num_attention_heads"), fields.get("num_key_value_heads")
    if heads is not None and heads == keys:
        _put(config, "num_key_value_heads", config.num_attention_heads)
    patch, side = fields.get("patch_size"), fields.get("image_size")
    if isinstance(patch, int) and isinstance(side, int):
        _put(config, "image_size", min(side, 4 * patch))
    elif isinstance(side, int):
        _put(config, "image_size", min(side, 64))

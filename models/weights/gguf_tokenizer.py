"""The tokenizer in a GGUF file's fields: byte-level pairs of GPT-2's kind, or scored pieces."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

from ...probe.sites import BpeTokenizer
from .tokenizer_files import PieceTokenizer

CONTROL, USER = 3, 4  # types of tokens: marks such as the end of a text, and whole words
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
# How text is cut before pairs are joined, by the file's word for it.
CUTS = {"gpt-2": [BYTES], "smollm": [DIGITS, BYTES]}


def gguf_tokenizer(fields: Mapping[str, Any], source: str) -> BpeTokenizer | PieceTokenizer | None:
    """The tokenizer that fields tell; None, with a warning, for a kind that is not known."""
    get = {
        name.removeprefix("tokenizer.ggml."): value
        for name, value in fields.items()
        if name.startswith("tokenizer.ggml.")
    }
    kind, cut = get.get("model"), get.get("pre", "gpt-2")
    if kind == "llama":
        return _pieces(get, source)
    if kind == "gpt2" and cut in CUTS:
        return BpeTokenizer(json.dumps(_pairs(get, CUTS[cut])), source)
    if kind is not None:
        warnings.warn(
            f"the tokenizer of {source!r} is of the kind {kind!r} {cut!r}, which is not known: "
            "the model takes token ids only, or set model.tokenizer",
            stacklevel=2,
        )
    return None


def _pieces(get: Mapping[str, Any], source: str) -> PieceTokenizer:
    tokens = [piece.replace("▁", " ") for piece in get["tokens"]]
    content = {
        "model": "sentencepiece-bpe-greedy",
        "bos": get.get("bos_token_id"),
        "eos": get.get("eos_token_id"),
        "byte_tokens_start": tokens.index("<0x00>"),
        "space": get.get("add_space_prefix", True),
        "tokens": tokens,
        "scores": get["scores"],
    }
    return PieceTokenizer(content, source)


def _pairs(get: Mapping[str, Any], cut: list[dict[str, Any]]) -> dict[str, Any]:
    """The content of a tokenizer.json."""
    types = get.get("token_type", [])
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": n, "content": get["tokens"][n], "special": kind == CONTROL, **plain}
        for n, kind in enumerate(types)
        if kind in (CONTROL, USER)
    ]
    joins = {
        "type": "BPE",
        "vocab": {token: n for n, token in enumerate(get["tokens"])},
        "merges": get["merges"],
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": cut},
        "post_processor": None,
        "decoder": BYTES,
        "model": joins,
    }

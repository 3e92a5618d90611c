"""The names that TransformerLens gives the parameters of small language models, and ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ...card import State

Change = Callable[[Tensor], Tensor]


def _same(x: Tensor) -> Tensor:
    return x


def _turned(x: Tensor) -> Tensor:
    return x.mT


def _columns(x: Tensor) -> Tensor:
    """Weights `h d m` as `m (h d)`."""
    return x.flatten(0, 1).mT


def _rows(x: Tensor) -> Tensor:
    """Weights `h m d` or biases `h d` with heads one after the other: `(h d) m`, `(h d)`."""
    return (x.mT if x.ndim == 3 else x).flatten(0, 1)


MODULES = {
    "ln1": "norm",
    "ln2": "mlp_norm",
    "ln_final": "norm",
    "attn.o": "attn.out",
    "mlp.in": "mlp.up",
    "mlp.out": "mlp.down",
}
LEAVES = {"w": "weight", "b": "bias", "W": "weight"}
HOOKED: dict[str, tuple[str, Change]] = {
    # a parameter of HookedTransformer, which multiplies from the left
    "embed.W_E": ("embed.weight", _same),
    "pos_embed.W_pos": ("pos_embed.weight", _same),
    "attn.W_O": ("attn.out.weight", _columns),
    "attn.b_O": ("attn.out.bias", _same),
    "mlp.W_in": ("mlp.up.weight", _turned),
    "mlp.b_in": ("mlp.up.bias", _same),
    "mlp.W_out": ("mlp.down.weight", _turned),
    "mlp.b_out": ("mlp.down.bias", _same),
    "unembed.W_U": ("unembed.weight", _turned),
    "unembed.b_U": ("unembed.bias", _same),
}
BLOCK = re.compile(r"(?:blocks\.(\d+)\.)?(.+)")
QKV = re.compile(r"attn\.(?:([qkv])\.(weight|bias)|([Wb])_([QKV]))")
CONSTANTS = ("attn.mask", "attn.IGNORE")


def own_names(state: Mapping[str, Tensor]) -> State:
    """A state under our names; queries, keys and values are joined, constants are left out."""
    renamed: State = {}
    parts: dict[str, State] = {}
    for name, x in state.items():
        match = BLOCK.fullmatch(name)
        number, rest = match.groups() if match else (None, name)
        place = "" if number is None else f"layers.{number}."
        if split := QKV.fullmatch(rest) if place else None:
            letter, leaf, kind, capital = split.groups()
            joined = f"{place}attn.qkv.{leaf or LEAVES[kind]}"
            parts.setdefault(joined, {})[letter or capital.lower()] = x if letter else _rows(x)
        elif not place or rest not in CONSTANTS:
            leaf_name, change = HOOKED.get(rest) or (_renamed(rest), _same)
            renamed[place + leaf_name] = change(x)
    return renamed | {name: _joined(letters) for name, letters in parts.items()}


def _renamed(name: str) -> str:
    """A name with its module and its last word as we write them."""
    module, _, leaf = name.rpartition(".")
    if module not in MODULES:
        return name
    return f"{MODULES[module]}.{LEAVES.get(leaf, leaf)}"


def _joined(parts: State) -> Tensor:
    return torch.cat([parts[letter] for letter in "qkv" if letter in parts])

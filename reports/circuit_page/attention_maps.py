"""What a circuit's heads attend to: their maps on some of the prompts, and what they do there."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...methods.circuits.circuit import Circuit
from ...methods.circuits.evidence import feed
from ...methods.circuits.tasks import Pair
from ...probe.engine import maps, trace
from ...probe.errors import LimelightError
from .photos import patches, photo
from .text import answers, spoken, tokens

LONGEST = 256  # tokens of a prompt whose maps are drawn
ROLES = {
    "previous_token": "attention to the token before",
    "induction": "attention to what followed the same token earlier",
    "duplicate_token": "attention to the same token earlier",
}
_PROMPTS_OF_ROLES = 8


@dataclass(frozen=True)
class Seen:
    """Prompts, the maps of each head on each of them, and why heads have none.

    maps     by place, one a prompt, ready for the page
    reasons  by place
    """

    prompts: tuple[dict[str, Any], ...]
    maps: dict[int, list[dict[str, Any]]]
    reasons: dict[int, str]


def seen(circuit: Circuit, places: Sequence[int], count: int) -> Seen:
    """The maps of some heads on the first prompts that are not too long."""
    pairs = [p for p in circuit.pairs if _length(p.clean) <= LONGEST][:count]
    drawn: dict[int, list[dict[str, Any]]] = {}
    reasons: dict[int, str] = {}
    outputs = circuit.evidence.outputs
    for layer in sorted({circuit.names[place][0] for place in places}):
        heads = [place for place in places if circuit.names[place][0] == layer]
        module = outputs.layers[layer].module
        attention = [_map(circuit, pair.clean, module) for pair in pairs]
        read = [m for m in attention if isinstance(m, Tensor)]
        if not attention or len(read) < len(attention):
            bad = next((m for m in attention if isinstance(m, str)), _too_long() if count else "")
            reasons |= dict.fromkeys(heads, bad)
            continue
        for place in heads:
            head = circuit.names[place][1]
            drawn[place] = [
                _packed(circuit, p.clean, m[head]) for p, m in zip(pairs, read, strict=True)
            ]
    return Seen(tuple(_prompt(circuit, pair) for pair in pairs), drawn, reasons)


def _prompt(circuit: Circuit, pair: Pair) -> dict[str, Any]:
    return {
        "words": list(tokens(pair)),
        "answer": spoken(answers(circuit, pair.good)),
        "photo": photo(circuit, pair.clean),
    }


def _length(x: Tensor) -> int:
    return len(x) if x.ndim == 1 else 0


def _too_long() -> str:
    return f"No prompt is short enough to be drawn: maps are shown up to {LONGEST} tokens."


def _map(circuit: Circuit, x: Tensor, module: str) -> Tensor | str:
    """The map of a module on one input, `h q k`, or why there is none."""
    model = circuit.evidence.model
    try:
        (value, *_) = trace(model, feed(model, x[None]), sites=[f"{module}:map"]).values()
    except (LimelightError, ValueError) as error:
        return f"No attention map can be read at {module}: {error}"
    weights = value.act.detach().float().cpu()
    if weights.ndim != 4 or len(weights) != 1:
        return f"The attention of {module} is no map of queries by keys, so it is not drawn."
    if max(weights.shape[2:]) > LONGEST:
        return f"Its map has {weights.shape[2]} by {weights.shape[3]} values, too many to be drawn."
    return weights[0]


def _packed(circuit: Circuit, x: Tensor, values: Tensor) -> dict[str, Any]:
    """A map `q k` as bytes of its own largest value."""
    top = float(values.nan_to_num().max()) or 1.0
    steps = (values.nan_to_num().clamp(0, top) / top * 255).round().to(torch.uint8)
    text = b64encode(steps.numpy().tobytes()).decode()
    grid = patches(circuit, x, values.shape[1])
    return {"size": list(values.shape), "top": round(top, 6), "bytes": text, "grid": grid}


def roles(circuit: Circuit, places: Sequence[int]) -> dict[int, list[tuple[str, str, float]]]:
    """How far heads attend to the token before, to repeats, to what followed them; by place."""
    pair = circuit.pairs[0].clean
    if pair.ndim != 1 or pair.is_floating_point():
        return {}
    group = next(circuit.pairs.batches(_PROMPTS_OF_ROLES))
    outputs = circuit.evidence.outputs
    modules = [outputs.layers[i].module for i in sorted({circuit.names[p][0] for p in places})]
    model = circuit.evidence.model
    try:
        role_maps = maps(model, feed(model, group.clean), list(ROLES), sites=modules)
    except LimelightError:
        return {}
    means: dict[int, list[tuple[str, str, float]]] = {}
    for place in places:
        layer, head = circuit.names[place]
        for name, meaning in ROLES.items():
            rows = [
                m.values[head]
                for m in role_maps
                if m.method == name and m.site.path == outputs.layers[layer].module
            ]
            mean = float(torch.stack(rows).nanmean()) if rows else float("nan")
            if mean == mean:
                means.setdefault(place, []).append((name, meaning, mean))
    return means

"""Circuits that are known: published ones as data, and measured ones by exact patching."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ....probe.attribution import Count, Natural, Spread, in_range
from ....probe.errors import OptionError, near
from ..evidence import Evidence
from ..head_outputs import Outputs
from ..scores import ablation

Heads = tuple[tuple[int, int], ...]

SAE = "charlieoneill11/sae-circuits 10fd2e78"
ACDC = "ArthurConmy/Automatic-Circuit-Discovery bc99ace8"


@dataclass(frozen=True)
class Published:
    """Heads (layer, number) that a paper or its code calls a circuit.

    version  the repository and commit that the list is of
    groups   what its heads are said to do
    edges    from, to and the inputs entered (of q, k, v): heads or groups, "input", "output"
    """

    task: str
    model: str
    version: str
    groups: Mapping[str, Heads]
    edges: tuple[tuple[Any, Any, str], ...] = ()

    @property
    def heads(self) -> Heads:
        return tuple(head for group in self.groups.values() for head in group)


_IOI: dict[str, Heads] = {
    "previous token": ((2, 2), (4, 11)),
    "duplicate token": ((0, 1), (3, 0), (0, 10)),
    "induction": ((5, 5), (6, 9), (5, 8), (5, 9)),
    "S-inhibition": ((7, 3), (7, 9), (8, 6), (8, 10)),
    "negative": ((10, 7), (11, 10)),
    "name mover": ((9, 9), (9, 6), (10, 0)),
    "backup": ((10, 10), (10, 6), (10, 2), (10, 1), (11, 2), (11, 9), (11, 3), (9, 7)),
}
_ACDC_IOI = {**_IOI, "backup": (*(h for h in _IOI["backup"] if h != (11, 3)), (9, 0))}
_GREATER = {
    "heads": ((0, 3), (0, 5), (0, 1), (5, 5), (6, 1), (6, 9), (7, 10), (8, 11), (9, 1)),
}

_IOI_EDGES = (
    ("input", "previous token", "qkv"),
    ("input", "duplicate token", "qkv"),
    ("input", "S-inhibition", "q"),
    *(("input", group, "kv") for group in ("negative", "name mover", "backup")),
    ("previous token", "induction", "kv"),
    ("induction", "S-inhibition", "kv"),
    ("duplicate token", "S-inhibition", "kv"),
    *(("S-inhibition", group, "q") for group in ("negative", "name mover", "backup")),
    *((group, "output", "") for group in ("negative", "name mover", "backup")),
)
_DOCSTRING_EDGES = (
    ((0, 5), (1, 4), "v"),
    ((0, 5), (2, 0), "qk"),
    ((1, 4), (2, 0), "v"),
    ((0, 5), (1, 2), "qk"),
    *(((1, 4), (3, n), "q") for n in (0, 6)),
    *(((0, 5), (3, n), "v") for n in (0, 6)),
    *(((2, 0), (3, n), "k") for n in (0, 6)),
    *(((1, 2), (3, n), "k") for n in (0, 6)),
)

PUBLISHED = {
    "ioi:sae": Published("ioi", "gpt2-small", SAE, _IOI),
    "ioi:acdc": Published("ioi", "gpt2-small", ACDC, _ACDC_IOI, _IOI_EDGES),
    "greater_than:sae": Published("greater_than", "gpt2-small", SAE, _GREATER),
    "greater_than:acdc": Published("greater_than", "gpt2-small", ACDC, _GREATER),
    "docstring:sae": Published(
        "docstring",
        "attn-only-4l",
        SAE,
        {"heads": ((0, 5), (1, 0), (1, 4), (2, 0), (3, 0), (3, 6))},
    ),
    "docstring:acdc": Published(
        "docstring",
        "attn-only-4l",
        ACDC,
        {"heads": ((0, 5), (1, 2), (1, 4), (2, 0), (3, 0), (3, 6))},
        _DOCSTRING_EDGES,
    ),
}


@dataclass(frozen=True, eq=False)
class Truth:
    """Which heads of one model are in the circuit.

    inside   `h` of booleans
    version  where it comes from: a repository and commit, or how it was measured
    effects  what each head was measured to do, `h`, where it was
    """

    name: str
    version: str
    inside: Tensor
    effects: Tensor | None = None
    groups: Mapping[str, Heads] = field(default_factory=dict)


def as_heads(given: Any) -> list[tuple[int, int]]:
    """Heads (layer, number) as a list. Raises OptionError for anything else."""
    heads = list(given) if isinstance(given, Iterable) else [given]
    if not all(isinstance(head, tuple | list) and len(head) == 2 for head in heads):
        raise OptionError(f"heads are (layer, number), as [(0, 1), (2, 3)], not {given!r}")
    return [(layer, number) for layer, number in heads]


def truth(spec: str | Published | Iterable[tuple[int, int]], outputs: Outputs) -> Truth:
    """A truth for a model's heads: `ioi:sae`, `ioi:acdc`, ... , or heads (layer, number).

    Raises OptionError for unknown names, SiteError for heads that the model lacks.
    """
    if isinstance(spec, str):
        if spec not in PUBLISHED:
            names = ", ".join(PUBLISHED)
            raise OptionError(
                f"truth {spec!r} is unknown (there are {names}){near(spec, PUBLISHED)}"
            )
        spec = PUBLISHED[spec]
    listed = spec.heads if isinstance(spec, Published) else as_heads(spec)
    inside = torch.zeros(len(outputs), dtype=torch.bool)
    for layer, head in listed:
        inside[outputs.place(layer, head)] = True
    if isinstance(spec, Published):
        return Truth(f"{spec.task} in {spec.model}", spec.version, inside, groups=spec.groups)
    return Truth("given heads", "given by the caller", inside)


@in_range
def measured(
    evidence: Evidence, *, most: Count = 20, least: Spread = 0.01, pairs: Natural = 0
) -> Truth:
    """The truth by exact patching: the `most` heads of the largest |effect| of at least `least`.

    effect = the share of the metric's fall that resample ablation of the head alone brings about.
    Give it pairs that no score has seen, and keep the thresholds as they are.
    """
    ablated = ablation(evidence, by="resample", pairs=pairs)
    effects = ablated.signed if ablated.signed is not None else ablated.values
    order = effects.abs().argsort(descending=True)[:most]
    inside = torch.zeros(len(effects), dtype=torch.bool)
    inside[order] = True
    inside &= effects.abs() >= least
    about = (
        f"resample ablation on {ablated.facts['pairs']} pairs ({evidence.pairs.about}): the {most} "
        f"largest |effect|, at least {least:g}"
    )
    return Truth(f"{evidence.pairs.name}, measured", about, inside, effects)

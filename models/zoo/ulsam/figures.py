"""What an explanation page shows of ULSAM in any host."""

from __future__ import annotations

from ...card import Figure

SHOWS = (
    Figure(
        "Attention of subspaces",
        "channels",
        sites=("**:map",),
        about="What the features of each group are multiplied by; an even picture is "
        "one that says nothing.",
    ),
    Figure(
        "Entropy",
        "heads",
        sites=("**:map",),
        methods=("attention_entropy,normalised=true",),
        about="Over that of an even picture, which has 1.",
    ),
    Figure(
        "Even pictures",
        "heads",
        sites=("**:map",),
        methods=("uniform",),
        about="1 for subspaces whose scores the ReLU has all shut.",
    ),
)

"""EfficientNet-Lite's parameter names in timm's layout, turned into those of the pip package."""

from __future__ import annotations

from collections.abc import Sequence

from ...card import State

TOP = {
    "conv_stem": "_conv_stem",
    "bn1": "_bn0",
    "conv_head": "_conv_head",
    "bn2": "_bn1",
    "classifier": "_fc",
}
FIRST = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
OTHER = {
    "conv_pw": "_expand_conv",
    "bn1": "_bn0",
    "conv_dw": "_depthwise_conv",
    "bn2": "_bn1",
    "conv_pwl": "_project_conv",
    "bn3": "_bn2",
}


def from_timm(state: State, stage_sizes: Sequence[int]) -> State:
    """Rename every entry; unknown ones keep their name, for the strict load to report."""
    starts = [sum(stage_sizes[:n]) for n in range(len(stage_sizes))]
    return {_renamed(name, starts): value for name, value in state.items()}


def _renamed(name: str, starts: Sequence[int]) -> str:
    head, *rest = name.split(".")
    if head in TOP:
        return ".".join((TOP[head], *rest))
    if head != "blocks" or len(rest) < 4 or not (rest[0].isdigit() and rest[1].isdigit()):
        return name
    stage, place, layer, *leaf = rest
    names = OTHER if int(stage) else FIRST
    if layer not in names or int(stage) >= len(starts):
        return name
    return ".".join(("_blocks", str(starts[int(stage)] + int(place)), names[layer], *leaf))

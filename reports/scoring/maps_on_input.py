"""Stored maps at the size of the input, each with the target that the plan asked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...probe.results import map_of_row
from ..datasets import Size
from ..runs import Row
from .baselines import SITE


@dataclass(frozen=True, eq=False)
class InputMap:
    """A map to be scored.

    source  its row in the run, without values
    asked   the target as the plan says it: `top`, `least`, `label`
    values  resized to the part of the input that it covers; at native size where it has no places
    start   the first row and column it covers
    flat    whether its places are rows and columns
    """

    source: Row
    asked: str
    values: Tensor
    start: Size = (0, 0)
    flat: bool = True

    @property
    def argument(self) -> str:
        """Which of a model's inputs it is at, where that is not the one that is explained."""
        word, _, argument = self.source["site"].partition(".")
        return argument if word == "input" else ""

    @property
    def end(self) -> Size:
        return self.start[0] + self.values.shape[0], self.start[1] + self.values.shape[1]

    def cut(self, mask: Tensor) -> Tensor:
        """The part of a mask of the whole input that the map covers."""
        return mask[self.start[0] : self.end[0], self.start[1] : self.end[1]]

    def rival(self, name: str, values: Tensor) -> InputMap:
        """A baseline for the same sample and target."""
        source = {**self.source, "method": name, "site": SITE, "axes": "y x"}
        return InputMap(source, self.asked, values)

    def row(
        self,
        metric: str,
        value: float = float("nan"),
        *,
        note: str = "",
        difficult: bool = False,
        asked: str | None = None,
    ) -> Row:
        """A row of the table of scores."""
        names = ("index", "sample", "label", "target", "class", "method", "site")
        return {
            **{name: self.source[name] for name in names},
            "asked": asked or self.asked,
            "metric": metric,
            "value": float(value),
            "difficult": difficult,
            "note": note,
        }


def maps_on_input(rows: Sequence[Row], targets: Sequence[str]) -> list[InputMap]:
    """The maps of one sample, ready to be scored."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["method"], row["site"]].append(row)
    maps = []
    for group in groups.values():
        whole = len(group) == len(targets)  # rows of one method and site follow the plan's targets
        asked = targets if whole else [row["target"].partition(":")[0] for row in group]
        maps += [_input_map(row, text) for row, text in zip(group, asked, strict=True)]
    return maps


def _input_map(row: Row, asked: str) -> InputMap:
    m = map_of_row(row)
    source = {name: value for name, value in row.items() if name != "values"}
    if m.axes != "y x" or len(m.extent) != 4:
        return InputMap(source, asked, m.on_input(), flat=False)
    return InputMap(source, asked, m.on_input(), (round(m.extent[0]), round(m.extent[1])))

"""What a reader sees of a run's samples that are no photos, from the data of the run again."""

from __future__ import annotations

from dataclasses import dataclass

from ...probe.errors import LimelightError
from ..datasets import Part, Parts, Preparation, Signal
from ..datasets import Samples as Rows
from ..explanation import Samples, show
from ..runs import Run
from ..scoring import data_of


@dataclass(frozen=True, eq=False)
class RunParts:
    """The rows of a run's data, and in which order its inputs were taken."""

    rows: Rows
    used: Preparation

    @staticmethod
    def of(run: Run) -> RunParts | None:
        """None where the samples are photos or ready tensors, and where the data have changed."""
        plan = run.plan
        orders = plan.told.get("orders") or {}
        if not orders.get("kinds"):
            return None
        try:
            rows = data_of(plan.told)
        except LimelightError:
            return None
        rows = rows if len(rows) <= plan.samples else rows[: plan.samples]
        if rows.digest != plan.data:
            return None
        names = {argument: tuple(words) for argument, words in orders["names"].items()}
        used = Preparation(
            axes=orders["axes"], kinds=orders["kinds"], explained=orders["explained"], names=names
        )
        return RunParts(rows, used)

    def add(self, shown: Samples, place: int, name: str) -> None:
        """Add the numbers of a sample, where they can still be read, and what lies beside them."""
        try:
            item, _ = self.rows.open(place, self.rows[place])
            if isinstance(item, Parts):
                ready = self.used(Parts(tuple(filter(_is_signal, item.parts))))
                show(shown, name, ready.seen, self.used)
        except (LimelightError, OSError):
            return


def _is_signal(part: Part) -> bool:
    return isinstance(part.content, Signal)

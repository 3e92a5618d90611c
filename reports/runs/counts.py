"""The numbers of a run that must count something."""

from __future__ import annotations

from ...probe.engine import check_seed
from ...probe.errors import OptionError


def check_counts(seed: object, limit: int | None, workers: int) -> None:
    """Raise OptionError for a seed that is none, and for numbers that count nothing."""
    check_seed(seed)
    if limit is not None and limit < 1:
        raise OptionError(f"limit={limit}: give at least 1 sample")
    if workers < 0:
        raise OptionError(f"workers={workers}: give 0, or how many processes are to decode")

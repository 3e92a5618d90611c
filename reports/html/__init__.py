"""One self-contained page: document, charts, formatting, templates."""

from .cells import Cell, cell_of
from .charts import LEFT, Chart, Dot, Scale, across, chart, spread, ticks
from .document import fill
from .formatting import (
    interval_text,
    joined,
    nonempty,
    or_dash,
    percent,
    plural,
    significant,
    significant_or_zero,
    three_digits,
)

"""One self-contained page: document, charts, formatting, templates."""

from .cells import Cell, cell_of
from .charts import LEFT, Chart, Dot, Scale, across, chart, spread, ticks
from .document import fill
from .formatting import counted, number, percent, precise, three

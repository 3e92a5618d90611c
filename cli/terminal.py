"""What the command line prints: plain tables, notes, a line of progress; and its exit codes.

rich is imported when something is drawn, so that `limelight --help` answers at once.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

FAILED, USAGE, PARTLY, INTERRUPTED = 1, 2, 3, 130
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)
_ONE_LINE = 10_000  # a row stays a row where the output is no terminal


@contextmanager
def progress(text: str, *, memory: bool = False) -> Iterator[Callable[[int, int, str], None]]:
    """A line on stderr with what is done, the rate and the time left; none in a pipe.

    memory  also the most memory that this process, or the GPU where there is one, held so far
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    text = plain(text)
    words = TextColumn("{task.description}", markup=False)
    rate = TextColumn("{task.fields[rate]}", markup=False)
    columns = (SpinnerColumn(), words, BarColumn(20), MofNCompleteColumn(), rate)
    console = console_for(stderr=True)
    hidden = not console.is_terminal
    first: list[tuple[int, float]] = []
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=hidden
    ) as bar:
        task = bar.add_task(text, total=None, rate="")

        def tell(done: int, total: int, name: str) -> None:
            now = monotonic()
            began, at = first[0] if first else (done, now)
            first[:] = first or [(done, now)]
            rate = f"{(done - began) / (now - at):.1f}/s" if now > at else ""
            if memory and not hidden:
                rate = f"{rate} {_peak()}".strip()
            short = plain(name.rpartition("/")[2])[-28:]
            bar.update(task, description=short, completed=done, total=total, rate=rate)

        yield tell


def _peak() -> str:
    """The largest amount of memory held so far."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return f"peak {torch.cuda.max_memory_allocated() / 2**20:,.0f} MiB GPU"
    try:
        from resource import RUSAGE_SELF, getrusage
    except ImportError:
        return ""
    unit = 1 if sys.platform == "darwin" else 1024
    return f"peak {getrusage(RUSAGE_SELF).ru_maxrss * unit / 2**20:,.0f} MiB"


def plain(text: str) -> str:
    """A text whose control characters are written out, so that no file speaks to the terminal.

    Escape sequences and marks that turn the direction of writing become `\\x1b`, `\\u202e`.
    """
    return _CONTROL.sub(lambda sign: ascii(sign[0])[1:-1], text)


def console_for(*, stderr: bool = False) -> Console:
    """Plain text; in a pipe tables are tab-separated lines, unless COLUMNS asks for a width."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    class PlainConsole(Console):
        def print(self, *objects: Any, **options: Any) -> None:
            if self.width != _ONE_LINE or not any(isinstance(o, Table) for o in objects):
                super().print(*objects, **options)
                return
            for table in objects:
                self.file.write(_tab_separated(table))

        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(plain(text), **options)

    console = PlainConsole(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _ONE_LINE
    return console


def _tab_separated(table: Table) -> str:
    """A table's head and rows, a line each."""
    columns = [[column.header, *column.cells] for column in table.columns]
    rows = zip(*columns, strict=True)
    words = ([" ".join(plain(str(cell)).split()) for cell in row] for row in rows)
    return "".join("\t".join(row) + "\n" for row in words)


def new_table(*heads: str) -> Table:
    """A table without lines; the first column is never wrapped."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, head in enumerate(heads):
        table.add_column(head, no_wrap=not place, overflow="fold")
    return table


def say(text: str) -> None:
    """One line to the person at the terminal, beside what the command prints."""
    print(f"limelight: {plain(' '.join(text.split()))}", file=sys.stderr)

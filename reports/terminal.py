"""What the command line prints: plain tables, and a line of progress."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

_ONE_LINE = 10_000  # a row stays a row where the output is no terminal


@contextmanager
def progress(text: str) -> Iterator[Callable[[int, int, str], None]]:
    """A line on stderr with what is done, the rate and the time left; none in a pipe."""
    words = TextColumn("{task.description}", markup=False)
    rate = TextColumn("{task.fields[rate]}", markup=False)
    columns = (SpinnerColumn(), words, BarColumn(20), MofNCompleteColumn(), rate)
    console = console_for(stderr=True)
    hidden = not console.is_terminal
    start = monotonic()
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=hidden
    ) as bar:
        task = bar.add_task(text, total=None, rate="")

        def tell(done: int, total: int, name: str) -> None:
            rate = f"{done / (monotonic() - start):.1f}/s"
            bar.update(task, description=name, completed=done, total=total, rate=rate)

        yield tell


def console_for(*, stderr: bool = False) -> Console:
    """Plain text; on no terminal rows are not wrapped, unless COLUMNS asks for it."""
    console = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _ONE_LINE
    return console


def new_table(*heads: str) -> Table:
    found = Table(box=None, pad_edge=False, header_style="bold")
    for place, head in enumerate(heads):
        found.add_column(head, no_wrap=not place, overflow="fold")
    return found

"""The census as a page of tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from .row import Row

_HEAD = (
    "| variant | parameters | sites known | refused | gradient | maps | relevance | reason |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |"
)


def page(rows: Sequence[Row]) -> str:
    """What was found, in short and architecture by architecture."""
    parts = ["# Census of architectures", _told(rows), _nodes(rows)]
    for source, of_source in groupby(rows, key=lambda row: row.source):
        parts += [f"## {source}", "\n".join([_HEAD, *map(_line, of_source)])]
    return "\n\n".join(part for part in parts if part) + "\n"


def summary(rows: Sequence[Row]) -> str:
    """The figures in one line."""
    seen = [row for row in rows if row.difference is not None]

    def count(holds: Callable[[Row], bool]) -> int:
        return sum(map(holds, seen))

    seen_at_input = ("as autograd", "finite")
    known, refused = sum(r.known for r in seen), sum(r.refused for r in seen)
    return (
        f"{len(seen)} architectures examined of {len(rows)}; outputs unchanged in "
        f"{count(lambda r: r.difference <= 1e-6)} ({count(lambda r: r.difference == 0)} bit for "
        f"bit); axes known at {known} of {known + refused} hidden sites, all of them in "
        f"{count(lambda r: not r.refused)} architectures; gradient at the input as plain "
        f"autograd's, or of ids finite, in "
        f"{count(lambda r: r.gradient.startswith(seen_at_input))}; relevance closes in "
        f"{count(lambda r: r.relevance == 'closes')}, is refused by name in "
        f"{count(lambda r: r.relevance.startswith('refused'))}, leaks in "
        f"{count(lambda r: r.relevance.startswith('leaks'))}; named holes in "
        f"{count(lambda r: bool(r.holes))}; faults in {sum(bool(r.faults) for r in rows)}"
    )


def _told(rows: Sequence[Row]) -> str:
    return (
        "Written by `make census`: the smallest variant of every architecture of torchvision and "
        "timm, and every model type of transformers that builds from a small configuration, with "
        "random weights. Each runs in a process of its own kind: at most 20 s of computing and "
        "3 GB.\n\n"
        f"{summary(rows)}.\n\n"
        "- sites: hidden sites whose axes the graph tells, and those that are refused by name\n"
        "- gradient: the gradient at the input beside plain autograd's\n"
        "- maps: hirescam and normgrad at two hidden sites, and their axes\n"
        "- relevance: LRP's ledger closes op by op to 1e-3, or the op without a rule"
    )


def _nodes(rows: Iterable[Row]) -> str:
    """Nodes at which axes were lost, by the number of architectures that they block."""
    count: Counter[str] = Counter()
    for row in rows:
        count.update(row.unsaid.keys())
    if not count:
        return ""
    lines = [f"| {node} | {n} |" for node, n in count.most_common()]
    return "\n".join(["| axes lost at | architectures |", "| --- | --- |", *lines])


def _line(row: Row) -> str:
    reason = "; ".join([*row.faults, row.reason, *(f"hole: {h}" for h in row.holes)])
    cells = (
        row.name, f"{row.parameters / 1e6:.2f} M" if row.parameters else "", str(row.known),
        str(row.refused), row.gradient, row.maps, row.relevance, reason.strip("; "),
    )  # fmt: skip
    return f"| {' | '.join(_plain(cell) for cell in cells)} |"


def _plain(text: str, most: int = 160) -> str:
    """Text that leaves a table whole."""
    return " ".join(text.replace("|", "/").split())[:most]

"""Numbers, counts and lists as the pages write them: a true minus, spaces that do not break."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence


def three_digits(value: float) -> str:
    """Three digits after the point, or three that count where there are more before it."""
    return _true_minus(f"{value:.3f}" if abs(value) < 10 else f"{value:.3g}")


def significant(value: float, digits: int = 4) -> str:
    """So many digits that count."""
    return _true_minus(f"{value:.{digits}g}")


def significant_or_zero(value: float) -> str:
    """Three digits that count; what is less than a millionth is none."""
    return "0" if abs(value) < 1e-6 else significant(value, 3)


def interval_text(low: float, high: float) -> str:
    """Both ends in three digits: `0.1 to 0.3`."""
    return f"{three_digits(low)} to {three_digits(high)}"


def percent(share: float) -> str:
    """A share with one decimal, its thousands apart."""
    size = f"{abs(share) * 100:,.1f}"
    minus = "−" if share < 0 and size != "0.0" else ""
    return f"{minus}{size}\N{NO-BREAK SPACE}%".replace(",", "\N{NO-BREAK SPACE}")


def or_dash(value: float | None, form: Callable[[float], str]) -> str:
    """A number in some form; a dash where there is none."""
    return "–" if value is None or value != value else form(float(value))


def plural(count: int, noun: str) -> str:
    """A count with its noun: 1 sample, 2 samples."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def joined(items: Sequence[object]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = map(str, items)
    return f"{', '.join(first)} and {last}" if first else last


def sentence(words: str) -> str:
    """Words with a capital letter and a full stop."""
    return words[:1].upper() + words[1:].rstrip(".") + "."


def nonempty(rows: Mapping[str, Iterable[str]]) -> list[tuple[str, list[str]]]:
    """The rows of a table of texts without empty texts, and without rows of none."""
    return [(name, kept) for name, texts in rows.items() if (kept := [t for t in texts if t])]


def _true_minus(text: str) -> str:
    return text.replace("-", "−")

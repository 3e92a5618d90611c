"""Numbers and counts as the pages write them."""

from __future__ import annotations


def three(value: float) -> str:
    """Three digits after the point, or three that count where there are more before it."""
    return (f"{value:.3f}" if abs(value) < 10 else f"{value:.3g}").replace("-", "−")


def counted(count: int, word: str) -> str:
    """A number of things in words: 1 sample, 2 samples."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def percent(share: float) -> str:
    """A share with one decimal, its minus a true one, its spaces unbroken."""
    size = f"{abs(share) * 100:,.1f}"
    minus = "−" if share < 0 and size != "0.0" else ""
    return f"{minus}{size}\N{NO-BREAK SPACE}%".replace(",", "\N{NO-BREAK SPACE}")


def number(value: float) -> str:
    """Four digits, its minus a true one."""
    return f"{value:.4g}".replace("-", "−")


def precise(value: float) -> str:
    """Three digits that count; what is less than a millionth is none."""
    if abs(value) < 1e-6:
        return "0"
    return f"{value:.3g}".replace("-", "−")

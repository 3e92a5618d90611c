"""Numbers and lists as the pages write them, and one place that writes them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from limelight.reports import html
from limelight.reports.html.formatting import (
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (three_digits(0.12345), "0.123"),
        (three_digits(-1.5), "−1.500"),
        (three_digits(1234.5), "1.23e+03"),
        (significant(-0.0123456), "−0.01235"),
        (significant(2e-7), "2e−07"),
        (significant(0.123456, 3), "0.123"),
        (significant_or_zero(9e-7), "0"),
        (significant_or_zero(-0.0123456), "−0.0123"),
        (percent(0.5), "50.0\u00a0%"),
        (percent(-12.3456), "−1\u00a0234.6\u00a0%"),
        (percent(-1e-5), "0.0\u00a0%"),
        (interval_text(-0.1, 0.25), "−0.100 to 0.250"),
        (or_dash(None, significant), "–"),
        (or_dash(math.nan, significant), "–"),
        (or_dash(0.5, significant), "0.5"),
        (plural(1, "sample"), "1 sample"),
        (plural(0, "sample"), "0 samples"),
        (joined(["a"]), "a"),
        (joined(["a", "b"]), "a and b"),
        (joined(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_as_written(text: str, expected: str) -> None:
    assert text == expected


def test_empty_texts_and_rows_are_dropped() -> None:
    assert nonempty({"a": ["x", ""], "b": [""], "c": []}) == [("a", ["x"])]


def test_the_minus_sign_is_made_in_one_file() -> None:
    reports = Path(html.__file__).parents[1]
    makers = {p.name for p in reports.rglob("*.py") if "−" in p.read_text(encoding="utf-8")}
    assert makers == {"formatting.py"}

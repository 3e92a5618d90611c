"""The waterfall: bars add up to what is lost, words and rows say so, names stay text."""

from __future__ import annotations

import math
from dataclasses import replace
from html import unescape
from xml.etree import ElementTree

import pytest
import torch
from pages import EVIL, elements, explanation, picture
from waterfalls import METHOD, entry, flowing, ledger, with_foci

import limelight as ll
from limelight.probe.relevance.ledger import Ledger
from limelight.probe.results.map_values import About
from limelight.probe.results.maps import Maps
from limelight.reports import render
from limelight.reports.explanation.page_data import page_data
from limelight.reports.explanation.waterfall.ledger_steps import REASONS, Step, steps
from limelight.reports.explanation.waterfall.waterfall import waterfall, words
from limelight.reports.html.formatting import percent


def chain(losses: list[float], start: float = 1.0) -> Ledger:
    found, at = [], start
    for i, loss in enumerate(losses):
        found.append(entry(f"layer.{i}", at, stabiliser=loss))
        at -= loss
    return Ledger(tuple(reversed(found)), start, at)


def real(name: str = "lrp:epsilon") -> Ledger:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 5)
    ).eval()
    return ll.ledger(net, torch.rand(1, 3, 8, 8), name)


@pytest.mark.parametrize(
    "books",
    [
        ledger(),
        ledger(-2.0),
        real(),
        real("lrp:epsilon_plus"),
        chain([0.02] * 30),
        chain([0.5, 0.1, 1e-5] * 20, 40.0),
        replace(ledger(), arrived=5.0),
        replace(ledger(), arrived=ledger().arrived - 1e-6),
        Ledger((), 2.0, 2.0),
        Ledger((), 2.0, 1.0),
    ],
)
def test_the_bars_are_the_start_less_what_arrived(books: Ledger) -> None:
    found = steps(books)
    lost = books.start - books.arrived
    assert sum(step.loss for step in found) == pytest.approx(lost, abs=1e-12 * abs(books.start))
    seen = waterfall("lrp", books)
    assert len(seen.bars) == len(found) + 2 <= 40
    unit = abs(seen.bars[0].spans[0].width)
    last = seen.bars[-2].after - seen.zero
    assert last / unit == pytest.approx(books.kept, abs=1e-3)
    for bar in seen.bars:
        assert -0.01 <= bar.after <= 100.01
        for span in bar.spans:
            assert span.left >= 0
            assert span.left + span.width <= 100.01


def test_small_losses_are_joined_between_large_ones() -> None:
    found = steps(ledger())
    assert [s.place for s in found] == ["fc", "pool", "", "conv1", "conv0"]
    assert found[2].name == "8 ops, each under 0.1 %"
    assert found[2].loss == pytest.approx(8 * 8e-4)
    assert found[0].bias == pytest.approx(-0.32)
    assert found[0].stabiliser == pytest.approx(0.08)
    assert [len(bar.spans) for bar in waterfall("lrp", ledger()).bars] == [1, 2, 1, 1, 1, 1, 1]


def test_what_cancels_within_an_op_is_not_hidden() -> None:
    books = Ledger((entry("a", 1.0, bias=0.3, stabiliser=-0.3),), 1.0, 1.0)
    assert steps(books) == (Step("conv2d.0", "a", 0.3, -0.3, 0.0),)


def test_many_large_losses_leave_the_largest() -> None:
    books = chain([0.001 * (i + 2) for i in range(60)], 10.0)
    shown = [s for s in steps(books, share=1e-6) if s.ops == 1]
    assert 1 < len(shown) <= 18
    assert max(s.loss for s in shown) == pytest.approx(0.061)


def test_what_no_op_booked_is_shown() -> None:
    books = Ledger((entry("a", 1.0),), 1.0, 0.75)
    last = steps(books)[-1]
    assert (last.name, last.leak) == ("not booked", 0.25)
    assert "25.0 % is lost unaccounted for" in said(books)


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def said(books: Ledger) -> str:
    return plain(words(books))


def test_words() -> None:
    assert (
        said(chain([0.027])) == "97.3 % of the score reaches the input; 2.7 % ends in stabilisers."
    )
    assert said(Ledger((entry("a", 1.0, bias=-0.5),), 1.0, 1.5)) == (
        "150.0 % of the score reaches the input; biases add 50.0 %."
    )
    assert said(Ledger((), 0.0, 0.5)) == "The score is 0; 0.5 reaches the input."
    assert plain(percent(-1e-9)) == "0.0 %"
    assert plain(percent(-12.3456)) == "−1 234.6 %"


@pytest.mark.parametrize(
    "books",
    [
        Ledger((entry("a", 0.0, bias=0.5),), 0.0, -0.5),
        Ledger((entry("a", math.nan),), math.nan, math.nan),
        Ledger((entry("a", math.inf),), 1.0, 1.0),
        Ledger((), 0.0, 0.0),
    ],
)
def test_without_shares_there_are_words_and_a_table(books: Ledger) -> None:
    seen = waterfall("lrp", books)
    assert seen.bars == ()
    assert len(seen.rows) == len(books) + 1
    page = render(replace(explanation(), ledgers={"lrp": books}))
    assert "<details>" in page
    assert 'class="bars"' not in page


def test_the_table_holds_every_op_from_the_output_down() -> None:
    rows = waterfall("lrp", ledger()).rows
    assert [row[1] for row in rows[:2]] == ["fc", "pool"]
    assert [len(rows), rows[-1][0], rows[-2][1]] == [13, "total", "conv0"]
    assert rows[0][2:] == ("8", "8.24", "−0.32", "0.08", "≈ 0")


def test_names_are_text() -> None:
    books = Ledger((replace(entry(EVIL, 1.0, bias=0.5), op=EVIL),), 1.0, 0.5)
    page = render(replace(explanation(), ledgers={EVIL: books}))
    outline, attributes = elements(page)
    assert outline == elements(render(flowing()))[0]
    assert not [name for name in attributes if name.startswith("on") or name == "style"]
    assert page.count("<script") == 2
    assert EVIL[:60] in unescape(page)


def test_the_picture_is_well_formed_and_named() -> None:
    page = render(flowing())
    pictures = [part.split("</svg>")[0] for part in page.split('<svg class="bars"')[1:]]
    assert len(pictures) == 2
    root = ElementTree.fromstring(f"<svg{pictures[0]}</svg>")
    assert root.get("role") == "img"
    assert (root.get("aria-label") or "").startswith("Waterfall of the relevance of lrp:epsilon")
    assert "://" not in page
    assert 'id="goes"' not in render(explanation())


def test_explain_keeps_the_books_of_the_first_picture() -> None:
    model = ll.load("resnet18", None)
    methods = ["lrp:epsilon_plus", "gradcam"]
    found = ll.explain(model, [picture(0, 64), picture(1, 64)], methods, ledger=True)
    (name, books), *others = found.ledgers.items()
    assert not others
    assert name.startswith("lrp:epsilon_plus of picture 1 for ")
    own = found.maps.where(method="lrp:epsilon_plus", sample="picture 1")[0]
    assert own.target in name
    assert books.arrived == pytest.approx(own.values.double().sum().item(), rel=1e-3)
    assert all(math.isfinite(getattr(books.total, reason)) for reason in REASONS)
    assert not ll.explain(model, picture(0, 64), "lrp:epsilon_plus").ledgers


def test_foci_are_those_of_the_definition() -> None:
    found = [m for m in page_data(flowing())["maps"] if "outline" in m]
    assert len(found) == 1
    assert found[0]["outline"] == pytest.approx(0.8)
    own = replace(with_foci(), about=About(options=(("threshold", "0.4"),)))
    data = page_data(replace(explanation(), maps=Maps([own])))["maps"][0]
    assert data["outline"] == pytest.approx(0.4)
    for values in (torch.full((4, 4), math.nan), torch.zeros(4, 4)):
        empty = replace(own, values=values, method=METHOD)
        assert "foci" not in page_data(replace(explanation(), maps=Maps([empty])))["maps"][0]

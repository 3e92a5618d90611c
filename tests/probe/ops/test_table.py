"""The table of ops: one row an op, a rule for every kind, and one row is all a new op takes."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.probe.ops import table
from limelight.probe.ops.table import LINEAR, ROWS, Kind, kind_of, name_of, op, spec_of
from limelight.probe.relevance.op_rules import OP_RULES, NoRule


def test_no_spelling_stands_twice() -> None:
    spellings = Counter(word for row in ROWS for word in (row.name, *row.spellings))
    assert [word for word, count in spellings.items() if count > 1] == []


def test_every_kind_has_a_rule_or_needs_none() -> None:
    kinds = set(get_args(Kind))
    assert {row.kind for row in ROWS} <= kinds
    assert kinds - {"move", *LINEAR} == set(OP_RULES)


def test_no_row_names_a_parameter_twice() -> None:
    for row in ROWS:
        assert len(set(row.parameters)) == len(row.parameters), row.name


def test_rows_are_read_by_any_spelling() -> None:
    assert name_of("imatmul") == name_of("bmm") == "matmul"
    assert name_of("unheard_of") == "unheard_of"
    assert spec_of("unheard_of").kind == "none"
    assert kind_of("attention") == "mixer"  # a kernel of limelight's own


class Clamped(nn.Module):
    """A network with an op that the table does not name."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(4, 6, bias=False), nn.Linear(6, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.erfinv(self.body(x).clamp(-0.9, 0.9)))


def test_one_row_makes_a_new_op_of_a_known_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = Clamped(), torch.rand(2, 4)
    with pytest.raises(NoRule, match="op 'erfinv' at"):
        ll.maps(net, x, "lrp:lrp0", target=0, sites="body")
    monkeypatch.setitem(table.SPECS, "erfinv", op("pass", "erfinv"))
    ledger = ll.ledger(net, x, "lrp:lrp0", target=0)
    entry = next(e for e in ledger if e.op == "erfinv.0")
    assert entry.handed == pytest.approx(entry.received, rel=1e-5)
    assert ledger.kept == pytest.approx(1, abs=1e-4)

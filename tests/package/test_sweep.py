"""The probe on many foreign models; `make sweep` runs it and prints a table."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from sweep import Row, probe_model
from sweep_models import cases

CASES = cases()
pytestmark = [pytest.mark.sweep, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[Row]]:
    """Rows as they come; written out when the last model is done."""
    rows: list[Row] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # many threads on a shared machine wait for one another
    yield rows
    torch.set_num_threads(threads)
    lines = [str(row) for row in rows]
    lines.append(f"{len(rows)} of {len(CASES)} models, {sum(r.seconds for r in rows):.0f} s probed")
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n" + "\n".join(lines))


@pytest.mark.parametrize("name", list(CASES))
def test_foreign_model(name: str, table: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.manual_seed(0)
    case = CASES[name]
    table.append(probe_model(name, case.build(), case.example(), **case.options))

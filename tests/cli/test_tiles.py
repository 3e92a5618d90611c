"""`limelight tiles`: figures, page, one-sentence errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from limelight.cli.app import main


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    return tmp_path


def test_figures_and_page(here, capsys):
    words = ["64x48", "--window", "16x12", "--dilation", "2x3", "--q-tile", "8", "-o", "page.html"]
    assert main(["tiles", *words]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert dict(line.split("\t") for line in out.splitlines()[1:4]) == {
        "visited tiles": "240",
        "of them seen whole": "0 (0.0 %)",
        "tiles of dense attention": "2,304",
    }
    assert "page.html: the map of tiles" in out
    text = Path("page.html").read_text(encoding="utf-8")
    assert "A window of 16 × 12 on 64 × 48 tokens" in text


def test_the_real_entry_point(here):
    command = [
        sys.executable,
        "-m",
        "limelight",
        "tiles",
        "4096",
        "--window",
        "512",
        "--causal",
        "yes",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "sparsity" in done.stdout
    assert Path("tiles.html").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["64xa", "--window", "3"], "GRID '64xa' is not understood: write whole numbers as 64x48"),
        (["64x8", "--window", "0"], "--window '0' is not understood"),
        (["64x8", "--window", "3x3x3"], "kernel_size=(3, 3, 3) needs one entry for each of 2 axes"),
        (["8", "--window", "9"], "a window of 9 keys with dilation 1 does not fit an axis of 8"),
        (["8", "--window", "4", "--stride", "5"], "stride 5 must lie between 1 and the window, 4"),
        (["8", "--window", "4", "--causal", "maybe"], "--causal 'maybe' is not understood"),
        (["8x8", "--window", "4", "--q-tile", "2x2x2"], "q_tile=(2, 2, 2) cannot cut 2 axes"),
        (["2x2x2x2", "--window", "2"], "neighbourhoods have 1 to 3 axes, not 4"),
        (["8", "--window", "4", "-o", "tiles.txt"], "-o 'tiles.txt' must end in .html or .htm"),
        (["8"], "Missing option '--window'"),
    ],
)
def test_mistakes_are_told_in_one_sentence(here, capsys, words, told):
    assert main(["tiles", *words]) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == ""
    assert told in line
    assert not list(here.iterdir())


def test_help(capsys):
    assert main(["tiles", "--help"]) == 0
    assert "  limelight tiles 32768 --window 2048" in capsys.readouterr().out

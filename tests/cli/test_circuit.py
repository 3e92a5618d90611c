"""`limelight circuit`: the page, the table, files of prompts and photos, one-sentence errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import torch
from PIL import Image

from limelight.cli.app import main

QUICK = ("-m", "attribution", "-m", "norm", "--count", "16", "--truth-pairs", "4")
SMALL = (*QUICK, "--checked", "4", "--heads", "1", "--prompts", "1")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    return tmp_path


def refused(capsys) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    return line.removeprefix("limelight: ")


def test_the_default_model_and_task_make_a_page(here, capsys):
    assert main(["circuit", *SMALL, "-o", "page.html", "--save", "kept"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    heads = out.splitlines()[0].split()
    assert heads[:3] == ["method", "AP", "null"]
    assert out.splitlines()[1].startswith("attribution")
    assert "page.html: " in out
    text = Path("page.html").read_text(encoding="utf-8")
    assert "Which heads of induction_2l do induction" in text
    scores = pandas.read_parquet("kept/scores.parquet")
    assert set(scores["method"]) == {"attribution", "norm"}


def test_a_truth_may_be_heads_or_none(here, capsys):
    assert main(["circuit", *SMALL, "--truth", "0.2,1.3"]) == 0
    assert "2 of 8 heads (0.2, 1.3)" in Path("circuit.html").read_text(encoding="utf-8")
    capsys.readouterr()
    assert main(["circuit", *SMALL, "--truth", "none"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == [
        "method", "first", "heads", "seconds",
    ]  # fmt: skip


def test_help_imports_nothing_heavy():
    code = (
        "import sys, limelight.cli.app as c; c.main(['circuit', '--help']); "
        "print(sorted({'torch', 'pandas', 'rich.table', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert "MODEL" in done.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["induction_2l", "inductoin"], "did you mean 'induction'"),
        (["--truth", "ioi:sea"], "truth 'ioi:sea' is unknown"),
        (["--truth", "0.2,1.9"], "head 1.9 was asked"),
        (["--by", "all"], "--by is one of mean, zero, resample, not 'all'"),
        (["-o", "page.txt"], "-o 'page.txt' must end in .html or .htm"),
        (["-m", "gradcam"], "method 'gradcam' makes maps"),
        (["-m", "atribution"], "did you mean 'attribution'"),
        (["--heads", "-1"], "0 heads, prompts and checked pairs or more, not -1"),
        (["--pairs", "a", "b"], "name them by --good and --bad"),
        (["--device", "moon"], "device 'moon' cannot be used here"),
        (["nomodel"], "nomodel"),
        (["nowhere:net"], "module 'nowhere' could not be imported"),
    ],
)
def test_mistakes_are_one_sentence(here, capsys, words, told):
    assert main(["circuit", *([] if "-m" in words else SMALL), *words]) == 2
    assert told in refused(capsys)


def test_a_file_of_prompts_needs_a_tokenizer(here, capsys):
    record = {"clean": "a b", "corrupt": "c b", "answer": " a", "wrong": " c"}
    Path("mine.jsonl").write_text(json.dumps(record) + "\n")
    assert main(["circuit", "induction_2l", "mine.jsonl", *SMALL]) == 2
    assert "tokenizer" in refused(capsys)


def test_photos_of_two_classes(here, capsys):
    for name, shift in (("a", 0), ("b", 90)):
        Path(name).mkdir()
        for n in range(6):
            random = torch.Generator().manual_seed(10 * n + shift)
            pixels = torch.randint(0, 255, (32, 32, 3), generator=random, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(Path(name) / f"{n}.png")
    words = ["circuit", "convit_digits", "--pairs", "a", "b", "--good", "3", "--bad", "8"]
    rest = ["-m", "attribution", "--truth-pairs", "2", "--checked", "2", "--heads", "1"]
    assert main([*words, *rest, "--truth", "none", "-o", "p.html"]) == 0
    text = Path("p.html").read_text(encoding="utf-8")
    assert "6 pictures of class 3 against class 8" in text
    assert text.count('alt="the clean picture"') == 1
    assert text.count("picture 2") == 1
    assert '"grid":[8,8,' in text
    capsys.readouterr()

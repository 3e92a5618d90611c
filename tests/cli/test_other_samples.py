"""Samples that are no photos on the command line: the same words as in Python, the same numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from limelight.cli.app import main
from limelight.cli.inputs import axes_in
from limelight.probe.errors import OptionError
from limelight.reports.runs.run import Run

NETS = """
from torch import nn, tensor

def weighs(count) -> nn.Module:
    '''Two scores, of which class 1 is the sum of i x_i.'''
    net = nn.Sequential(nn.Flatten(), nn.Linear(count, 2, bias=False)).eval()
    net[1].weight.data = tensor([[0.0] * count, [float(i) for i in range(count)]])
    return net
"""
TABLE = "id,age,bmi,bp,label\nann,41,22.5,1,1\nbob,33,abc,1,1\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a module of networks, a table, and two series with their listing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "weighing", raising=False)
    Path("weighing.py").write_text(NETS)
    Path("patients.csv").write_text(TABLE)
    for n in range(2):
        np.save(f"{n}.npy", np.arange(4, dtype=np.float32) + n)
    Path("beats.tsv").write_text("series\tlabel\n0.npy\t1\n1.npy\t1\n")
    return tmp_path


def words(count: int, *more: str) -> list[str]:
    return ["--set", f"count={count}", "-m", "input_x_gradient", "-t", "1", *more]


def test_the_real_command_on_a_table(here):
    said = ["--input", "features:age,bmi,bp", "--axes", "input=b c", *words(3, "-o", "run")]
    command = [sys.executable, "-m", "limelight", "run", "weighing:weighs", "patients.csv", *said]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 3
    assert done.stdout == "run: 1 maps of 2 samples\n"
    assert done.stderr == (
        "limelight: bob: LimelightError: column 'bmi' holds 'abc', which is no finite number\n"
    )
    (m,) = Run(Path("run")).maps()
    torch.testing.assert_close(m.values, torch.tensor([0, 22.5, 2.0]), rtol=1e-3, atol=1e-3)
    assert (m.sample, m.about.features) == ("ann", ("age", "bmi", "bp"))


def test_axes_on_the_command_line_mean_what_they_mean_in_python(here, capsys):
    asked = ["run", "weighing:weighs", "beats.tsv", *words(4)]
    assert main([*asked, "-o", "refused"]) == 2
    err = capsys.readouterr().err
    assert "no op of Sequential tells in which order it takes a series (4,) (t)" in err
    assert '--axes input="b c t"' in err
    assert not Path("refused").exists()
    assert main([*asked, "--axes", "input=b c t", "-o", "run"]) == 0
    for n, m in enumerate(Run(Path("run")).maps()):
        want = torch.arange(4.0) * (torch.arange(4.0) + n)
        torch.testing.assert_close(m.values, want, rtol=1e-3, atol=1e-3)
        assert m.axes == "t"
    Path("plan.toml").write_text(
        'model = "weighing:weighs"\ndata = "beats.tsv"\nmethods = "input_x_gradient"\n'
        'target = "1"\ninputs = ["series:series"]\n[hyper]\ncount = 4\n[axes]\ninput = "b c t"\n'
    )
    assert main(["run", "plan.toml", "--trust", "-o", "planned"]) == 0
    planned, said = Run(Path("planned")), Run(Path("run"))
    assert planned.plan.preprocessing == said.plan.preprocessing
    assert torch.equal(planned.maps().stack(), said.maps().stack())
    assert main(["score", "run", "--metric", "average_drop", "--model", "weighing:weighs",
                 "--set", "count=4"]) == 0  # fmt: skip
    assert main(["report", "run", "-o", "page.html"]) == 0
    assert '<polyline points="' in Path("page.html").read_text(encoding="utf-8")


def test_explain_takes_listings_and_files_of_a_kind(here, capsys):
    more = ["--axes", "input=b c t", "-o", "page.html", "--maps", "maps.parquet"]
    asked = ["explain", "weighing:weighs"]
    assert main([*asked, "0.npy", "1.npy", "--input", "series", *words(4, *more)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["sample", "class", "number", "probability"]
    assert "1.npy" in out
    assert main([*asked, "beats.tsv", *words(4, *more)]) == 0
    assert (
        main([*asked, "patients.csv", "--input", "features:age,b*", *words(3, "-o", "t.html")]) == 3
    )
    assert "column 'bmi' holds 'abc'" in capsys.readouterr().err
    page = Path("t.html").read_text(encoding="utf-8")
    assert "<span>age 41</span><span>bmi 22.5</span><span>bp 1</span>" in page
    assert "3 features as the model sees them" in page


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["beats.tsv", "0.npy"], "listing 'beats.tsv' is explained alone"),
        (["patients.csv"], "say inputs='features:*' where its numbers are features"),
        (["patients.csv", "--input", "features:ages"], "did you mean 'age'"),
        (["0.npy", "--input", "serie"], "did you mean 'series'"),
        (["0.npy", "--axes", "b c t"], 'write --axes input="b c t"'),
        (["0.npy", "--axes", "input=b c t", "--axes", "input=b t"], "says 'input' twice"),
        (["gone.npy", "--input", "series"], "gone.npy' does not exist; check the path"),
        (["a.nii.gz"], "a.nii.gz' is read by nibabel, which is not installed: pip install nibabel"),
    ],
)
def test_mistakes_are_one_sentence(here, capsys, monkeypatch, asked, told):
    monkeypatch.setitem(sys.modules, "nibabel", None)
    Path("a.nii.gz").write_bytes(b"")
    assert main(["explain", "weighing:weighs", *asked, *words(4, "-o", "page.html")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_axes_in_words():
    assert axes_in(["input=b c t", "layer.1 = b t c"]) == {"input": "b c t", "layer.1": "b t c"}
    assert axes_in(None) == {}
    with pytest.raises(OptionError, match="is not understood"):
        axes_in(["input="])


def test_the_nets_of_these_tests_are_linear(here):
    from weighing import weighs

    net = weighs(3)
    assert isinstance(net, nn.Module)
    assert net(torch.ones(1, 3)).tolist() == [[0.0, 3.0]]

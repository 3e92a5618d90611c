"""`limelight run`, `score` and `report`: plans, exit codes, resuming, one-sentence errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest
from small_runs import photos

from limelight.cli.app import main
from limelight.probe.sites import RANDOM
from limelight.reports.runs.plan_file import read_plan
from limelight.reports.runs.run import Run

SMALL = ("resnet18", "--weights", "none", "--set", "img_size=32", "--set", "num_classes=6")
PLAN = """
model = "resnet18"
weights = "none"
data = "photos/things.csv"
methods = ["gradcam", "normgrad"]
sites = ["layer1", "layer2"]
target = ["label", "top", "least"]
shard = 3
workers = 0
[hyper]
img_size = 32
num_classes = 6
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with six photos, their boxes, and a plan."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    Path("photos").mkdir()
    photos(Path("photos"))
    Path("plan.toml").write_text(PLAN)
    return tmp_path


def go(*words: str) -> int:
    return main(["run", SMALL[0], "photos", *SMALL[1:], "--workers", "0", *words])


def refused(capsys) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    return line.removeprefix("limelight: ")


def test_a_plan_is_run_scored_and_shown(here, capsys):
    assert main(["run", "plan.toml", "--out", "run"]) == 0
    assert capsys.readouterr() == (
        "run: 72 maps of 6 samples\n",
        f"limelight: caution: {RANDOM}\n",
    )
    assert Run(Path("run")).plan.targets == ("label", "top", "least")
    words = ["--metric", "auc", "--metric", "class_sensitivity"]
    assert main(["score", "run", *words]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split()[:4] == ["metric", "method", "site", "target"]
    assert "sobel" in out
    assert set(pandas.read_parquet("run/scores.parquet")["metric"]) >= {"auc", "class_sensitivity"}
    assert main(["report", "run", "-o", "page.html"]) == 0
    assert "page.html: " in capsys.readouterr().out
    assert Path("page.html").read_text(encoding="utf-8").startswith("\n\n<!doctype html>".strip())


def test_options_say_the_same_without_a_plan_and_overrule_one(here, capsys):
    assert go("--out", "a", "-m", "gradcam", "-s", "layer2", "-t", "least", "--limit", "2") == 0
    plan = Run(Path("a")).plan
    assert (plan.methods, plan.sites, plan.targets) == (("gradcam",), ("layer2",), ("least",))
    assert plan.samples == 2
    assert main(["run", "plan.toml", "--out", "b", "-t", "3", "--limit", "1", "--seed", "5"]) == 0
    plan = Run(Path("b")).plan
    assert (plan.targets, plan.seed, plan.samples) == (("3",), 5, 1)
    assert main(["run", "plan.toml", "--out", "b"]) == 2
    assert "runs do not mix" in capsys.readouterr().err


def test_preprocessing_and_names_of_ones_own(here, capsys):
    names = "\n".join("abcdef")
    Path("names.txt").write_text(names)
    said = 'size = 24\nresize = [24, 24]\nmean = 0.5\nstd = [0.5, 1, 0.25]\nlabels = "names.txt"\n'
    Path("plan.toml").write_text(said + PLAN.replace('["label", "top", "least"]', '"b"'))
    assert main(["run", "plan.toml", "--out", "run"]) == 0
    plan = Run(Path("run")).plan
    assert plan.preprocessing == (
        "resize (24, 24) bilinear, crop [24, 24], mean [0.5, 0.5, 0.5], std [0.5, 1.0, 0.25]"
    )
    assert set(Run(Path("run")).table()["target"]) == {"b (1)"}
    words = ["--size", "24", "--resize", "24x24", "--mean", "0.5", "--std", "0.5,1,0.25"]
    assert go("--out", "words", *words, "--labels", "names.txt", "-t", "b", "--limit", "1") == 0
    assert Run(Path("words")).plan.preprocessing == plan.preprocessing
    assert Run(Path("words")).plan.labels == plan.labels != ""
    capsys.readouterr()


def test_failed_samples_give_three(here, capsys):
    Path("photos/broken.png").write_bytes(b"no picture")
    assert go("--out", "run", "-m", "gradcam", "-s", "layer2") == 3
    out, err = capsys.readouterr()
    assert out == "run: 6 maps of 7 samples\n"
    assert "limelight: broken.png: ImageError" in err
    assert main(["report", "run", "-o", "page.html"]) == 0
    assert "Failed samples" in Path("page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("metods = 1", "the key 'metods', which is unknown; did you mean 'methods'"),
        ("limit = 'x'", "limit = 'x' must be a whole number"),
        ("seed = true", "must be a whole number"),
        ("shard = [", "cannot be read"),
        ("size = 1.5", "size = 1.5 must be a whole number or a list"),
        ("mean = 'x'", "must be a whole number or a number or a list"),
        ("mean = ['x']", "must be a whole number or a number or a list"),
        ("size = [2]", "size=[2] is no size"),
        ("labels = 'lost.txt'", "labels='lost.txt' cannot be read"),
        ("seed = 12345678901234567890123", "is no whole number of 64 bits"),
        ("limit = -1", "limit=-1: give at least 1 sample"),
        ("interpolation = 'cubic'", "did you mean 'bicubic'"),
    ],
)
def test_mistakes_in_a_plan_are_one_sentence(here, capsys, change, told):
    Path("plan.toml").write_text(change + "\n" + PLAN)
    assert main(["run", "plan.toml", "--out", "run"]) == 2
    assert told in refused(capsys)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "gone.toml"], "plan 'gone.toml' does not exist"),
        (["run", "resnet18"], "the run names no data"),
        (["run", "resnet18", "nowhere"], "nowhere"),
        (["score", "photos", "--metric", "auc"], "holds no run"),
        (["report", "photos", "-o", "page.html"], "holds no run"),
        (["report", "run", "-o", "page.pdf"], "must end in .html or .htm"),
    ],
)
def test_mistakes_in_words_are_one_sentence(here, capsys, words, told):
    assert main(words) == 2
    assert told in refused(capsys)


def test_mistakes_in_metrics_are_one_sentence(here, capsys):
    assert go("--out", "run", "-m", "gradcam", "-s", "layer2", "--limit", "1") == 0
    capsys.readouterr()
    for words, told in (
        (["--metric", "pointin"], "did you mean 'pointing'"),
        (["--metric", "class_sensitivity"], "run it with both"),
        ([], "no metric was asked for"),
        (["--metric", "auc"], "the data mark none"),
    ):
        assert main(["score", "run", *words]) == 2
        assert told in refused(capsys)


def test_paths_in_a_plan_start_at_the_plan(here, monkeypatch):
    monkeypatch.chdir("photos")
    plan = read_plan(Path("../plan.toml"))
    assert Path(plan["data"]).resolve() == here / "photos" / "things.csv"


def test_an_interrupt_finishes_the_shard_and_gives_130(here):
    plan = PLAN.replace("shard = 3", "shard = 1").replace('"gradcam"', '"smoothgrad,n=8"')
    Path("plan.toml").write_text(plan)
    command = [sys.executable, "-m", "limelight", "run", "plan.toml", "--out", "run"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    while not list(Path("run/maps").glob("part-*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130
    assert told.splitlines()[-1].startswith("limelight: interrupted")
    missing = Run(Path("run")).missing
    assert 0 < missing < 6
    assert not list(Path("run/maps").glob(".*"))
    assert subprocess.run(command, env=env).returncode == 0
    assert Run(Path("run")).missing == 0


@pytest.mark.parametrize("command", ["run", "score", "report"])
def test_each_command_has_help_with_an_example(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"  limelight {command} " in capsys.readouterr().out


def test_heads_of_two_runs_are_shown_side_by_side(here, capsys):
    heads = ["-m", "nonlocality", "-m", "gate", "--workers", "0"]
    assert main(["run", "convit_digits", "photos", *heads, "-w", "digits", "-o", "trained"]) == 0
    assert main(["run", "convit_digits", "photos", *heads, "-w", "none", "-o", "initial"]) == 0
    assert main(["report", "trained", "--against", "initial", "-o", "page.html"]) == 0
    page = Path("page.html").read_text(encoding="utf-8")
    assert "<caption>trained</caption>" in page
    assert "<caption>initial</caption>" in page
    capsys.readouterr()
    for other, told in (("trained", "has the weights of"), ("photos", "holds no run")):
        assert main(["report", "trained", "--against", other, "-o", "page.html"]) == 2
        assert told in refused(capsys)


def test_the_address_of_a_cluster_is_for_ray(here, capsys):
    assert go("--out", "run", "-m", "gradcam", "-s", "layer2", "--address", "head:6379") == 2
    assert "ask for engine='ray' with it" in refused(capsys)
    Path("plan.toml").write_text('engine = "ray"\naddress = "127.0.0.1:9"\n' + PLAN)
    pytest.importorskip("ray")
    assert main(["run", "plan.toml", "--out", "run"]) == 2
    assert "no Ray cluster answers at '127.0.0.1:9'" in refused(capsys)


BUILDERS = '''
from os import system
import torch
from torch import nn


def annotated() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6))


def documented():
    """A torch.nn.Module of six classes."""
    return annotated()


def bare(command="no"):
    return system(command)
'''


def planned(model: str) -> None:
    text = PLAN.partition("\n[")[0]
    lines = [line for line in text.splitlines() if not line.startswith(("model", "weights"))]
    Path("plan.toml").write_text(f'model = "{model}"\nsize = 32\n' + "\n".join(lines))


@pytest.mark.parametrize("trust", [(), ("--trust",)])
@pytest.mark.parametrize("model", ["os:system", "builders_of_a_plan:bare", "subprocess:run"])
def test_a_plan_never_runs_a_command(here, capsys, monkeypatch, model, trust):
    Path("builders_of_a_plan.py").write_text(BUILDERS)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    planned(model)
    plan = Path("plan.toml")
    plan.write_text(plan.read_text() + '\n[hyper]\ncommand = "touch touched"\n')
    assert main(["run", "plan.toml", "--out", "run", *trust]) in (1, 2)
    told = capsys.readouterr().err
    assert ("give --trust" in told) == (not trust)
    assert not Path("touched").exists()


@pytest.mark.parametrize("name", ["annotated", "documented"])
def test_a_trusted_plan_calls_what_returns_a_module(here, capsys, monkeypatch, name):
    Path("builders_of_a_plan.py").write_text(BUILDERS)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    planned(f"builders_of_a_plan:{name}")
    words = ("--target", "1", "--site", "0", "-m", "gradcam", "--limit", "1")
    assert main(["run", "plan.toml", "--out", "run", "--trust", *words]) == 0, capsys.readouterr()

"""The table of scores: earlier ones are kept only while they are of the same maps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import limelight as ll
from limelight.probe.errors import LimelightError
from limelight.reports.dataset_page.page import render_run
from limelight.reports.datasets.samples import Sample, Samples
from limelight.reports.runs.run import Run, run
from limelight.reports.scoring.score import score
from limelight.reports.scoring.table import load

HALF = pytest.mark.filterwarnings("ignore:.*are not computed")  # the run is of two halves


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return ll.load("resnet18", weights=None, num_classes=6, img_size=32)


class StoppedError(Exception):
    """What ends a run after its first shard."""


def inputs() -> Samples:
    """Four inputs of noise."""
    drawn = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    rows = [Sample(f"s{n}") for n in range(4)]
    return Samples(rows, open=lambda place, row: (drawn[place], row), digest="noise")


def noise(folder: Path, net: nn.Module, *, stop: bool = False) -> Run:
    """A run over four inputs of noise in two shards, or its first shard alone."""

    def progress(done: int, total: int, name: str) -> None:
        if stop:
            raise StoppedError

    return run(folder, net, inputs(), "gradcam", shard=2, workers=0, progress=progress)


def test_other_scores_of_the_same_maps_are_kept(tmp_path, net):
    whole = noise(tmp_path, net)
    score(whole, "sparseness")
    score(whole, "complexity")
    kept = load(tmp_path).groupby("metric")["sample"].nunique()
    assert dict(kept) == {"sparseness": 4, "complexity": 4}


def grown(folder: Path, net: nn.Module) -> Run:
    """A run that was scored when it held half of its samples."""
    with pytest.raises(StoppedError):
        noise(folder, net, stop=True)
    half = Run(folder)
    score(half, "sparseness")
    score(half, "deletion,steps=2", data=inputs(), model=net)
    assert load(folder)["sample"].nunique() == 2
    return noise(folder, net)


@HALF
def test_scores_of_a_run_that_has_grown_since_are_computed_again(tmp_path, net):
    whole = grown(tmp_path, net)
    with pytest.warns(UserWarning, match=r"left out \(deletion,steps=2\)"):
        asked = score(whole, "complexity")
    assert set(asked["metric"]) == {"complexity"}
    kept = load(tmp_path).groupby("metric")["sample"].nunique()
    assert dict(kept) == {"complexity": 4, "sparseness": 4}


@HALF
def test_scores_that_need_the_model_are_computed_again_with_it(tmp_path, net):
    score(grown(tmp_path, net), "complexity", data=inputs(), model=net)
    kept = load(tmp_path).groupby("metric")["sample"].nunique()
    assert dict(kept) == {"complexity": 4, "deletion,steps=2": 4, "sparseness": 4}


@HALF
def test_a_page_shows_no_scores_of_an_earlier_state(tmp_path, net):
    whole = grown(tmp_path, net)
    with pytest.warns(UserWarning, match=r"left out \(deletion,steps=2\)"):
        render_run(whole)
    kept = load(tmp_path).groupby("metric")["sample"].nunique()
    assert dict(kept) == {"sparseness": 4}


@pytest.mark.parametrize("content", [None, b"", b"no table"])
def test_damaged_scores_are_named_and_made_again(tmp_path, net, content):
    whole = noise(tmp_path, net)
    score(whole, "sparseness")
    file = tmp_path / "scores.parquet"
    raw = bytearray(file.read_bytes())
    raw[40] ^= 0xFF
    file.write_bytes(raw if content is None else content)
    with pytest.raises(LimelightError, match=r"is damaged: it .*score the run again"):
        load(tmp_path)
    with pytest.warns(UserWarning, match=r"scores\.parquet' is damaged"):
        score(whole, "complexity")
    assert set(load(tmp_path)["metric"]) == {"complexity"}

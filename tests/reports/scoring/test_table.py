"""The table of scores: earlier ones are kept only while they are of the same maps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import limelight as ll
from limelight.reports.datasets.samples import Sample, Samples
from limelight.reports.runs.run import Run, run
from limelight.reports.scoring.score import score
from limelight.reports.scoring.table import load


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return ll.load("resnet18", weights=None, num_classes=6, img_size=32)


class StoppedError(Exception):
    """What ends a run after its first shard."""


def noise(folder: Path, net: nn.Module, *, stop: bool = False) -> Run:
    """A run over four inputs of noise in two shards, or its first shard alone."""
    inputs = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    rows = [Sample(f"s{n}") for n in range(4)]
    data = Samples(rows, open=lambda place, row: (inputs[place], row), digest="noise")

    def progress(done: int, total: int, name: str) -> None:
        if stop:
            raise StoppedError

    return run(folder, net, data, "gradcam", shard=2, workers=0, progress=progress)


def test_other_scores_of_the_same_maps_are_kept(tmp_path, net):
    whole = noise(tmp_path, net)
    score(whole, "sparseness")
    score(whole, "complexity")
    kept = load(tmp_path).groupby("metric")["sample"].nunique()
    assert dict(kept) == {"sparseness": 4, "complexity": 4}


def test_scores_of_a_run_that_has_grown_since_are_dropped(tmp_path, net):
    with pytest.raises(StoppedError):
        noise(tmp_path, net, stop=True)
    score(Run(tmp_path), "sparseness")
    assert load(tmp_path)["sample"].nunique() == 2
    score(noise(tmp_path, net), "complexity")
    kept = load(tmp_path).groupby("metric")["sample"].nunique()
    assert dict(kept) == {"complexity": 4}, "sparseness was of two samples only"

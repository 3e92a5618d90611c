"""Means of heads over a run equal those of the maps; runs that do not compare are refused."""

from __future__ import annotations

from math import isnan

import pytest
import torch
from head_runs import METRICS, heads_run, network
from small_runs import small_run

import limelight as ll
from limelight.probe.errors import LimelightError
from limelight.reports.dataset_page.depth import depths, gates, short_names
from limelight.reports.dataset_page.head_means import states


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("heads")
    return heads_run(root, "trained"), heads_run(root, "initial")


def test_means_are_those_of_the_maps_themselves(runs):
    (state,) = states(runs[0])
    paths = sorted((runs[0].folder.parent / "photos").glob("*.png"))
    x = torch.cat([ll.preprocess(network("trained"), p) for p in paths])
    maps = ll.maps(network("trained"), x, METRICS)
    assert list(state.metrics) == METRICS
    for metric, layers in state.metrics.items():
        for layer in layers:
            own = maps.where(method=metric, site=layer.site).stack()
            want = own.mean(0)
            torch.testing.assert_close(
                torch.tensor(layer.heads, dtype=want.dtype), want, rtol=1e-3, atol=1e-3,
                equal_nan=True,
            )  # fmt: skip
            per_sample = own.mean(1)
            if per_sample.isnan().all():
                assert isnan(layer.mean)
                assert layer.count == 0
                continue
            assert layer.mean == pytest.approx(float(per_sample.mean()), abs=1e-3)
            wide = 1.96 * float(per_sample.std()) / len(x) ** 0.5
            assert layer.wide == pytest.approx(wide, abs=2e-3)


def test_heads_without_a_value_are_left_out_and_never_zero(runs):
    found = states(runs[0])
    last = found[0].metrics["gate"][-1]
    assert all(isnan(v) for v in last.heads)
    pictures, empty = depths(found)
    assert [p.metric for p in pictures] == METRICS
    assert empty == []
    by_name = {p.metric: p for p in pictures}
    assert [row[0] for row in by_name["gate"].rows] == ["0", "1", "2"]
    assert [row[0] for row in by_name["nonlocality"].rows] == ["0", "1", "2", "3"]
    assert by_name["nonlocality"].where == "blocks.*.attn"
    (grid,) = gates(found)
    assert (grid.heads, len(grid.rows)) == (4, 3)


def test_two_runs_are_set_beside_each_other(runs):
    found = states(*runs)
    assert [s.name for s in found] == ["trained", "initial"]
    pictures, _ = depths(found)
    for one in pictures:
        assert [s.name for s in one.series] == ["trained", "initial"]
        for mean, other in zip(*(s.means for s in one.series), strict=True):
            assert mean.x < other.x
    trained, initial = gates(found)
    assert {v for _, row in initial.rows for v, _ in row} == {"0.731"}
    assert trained.rows != initial.rows


def test_one_run_may_hold_both(runs, tmp_path):
    both = states(heads_run(tmp_path, "both", ["nonlocality", "gate"]))
    assert [s.name for s in both] == ["trained", "initial"]
    for state, single in zip(both, states(*runs), strict=True):
        for metric, layers in state.metrics.items():
            for one, other in zip(layers, single.metrics[metric], strict=True):
                assert one.site == other.site
                assert one.heads == pytest.approx(other.heads, nan_ok=True)


def test_runs_that_do_not_compare_are_refused(runs, tmp_path):
    with pytest.raises(LimelightError, match="compare two runs of one model"):
        states(runs[0], small_run(tmp_path))
    with pytest.raises(LimelightError, match="has the weights of"):
        states(runs[0], runs[0])
    bare = heads_run(tmp_path / "other", "initial", ["gradcam"])
    with pytest.raises(LimelightError, match="no metric of attention heads in common"):
        states(runs[0], bare)


def test_layers_are_called_by_what_tells_them_apart():
    named, where = short_names(["stages.0.1.attn:map", "stages.2.0.attn:map"])
    assert (list(named.values()), where) == (["0.1", "2.0"], "stages.*.attn")
    assert short_names(["attn:map"]) == ({"attn:map": "attn:map"}, "")
    assert short_names(["a:map", "a:map@1"])[0] == {"a:map": "a", "a:map@1": "a:map@1"}
    assert short_names(["a.x:map", "a.x.y:map"])[0] == {"a.x:map": "x", "a.x.y:map": "x.y"}

"""The study of recall: what it trains, how it patches, what its log keeps, what its tables say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor, nn

import limelight as ll

BENCHMARKS = Path(ll.__file__).parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import recall as study  # noqa: E402
import recall_parts as parts  # noqa: E402
import recall_tables as tables  # noqa: E402
import recall_training as training  # noqa: E402


@pytest.fixture
def few_tokens(monkeypatch):
    """A vocabulary that is learned in seconds."""
    monkeypatch.setattr(training, "VOCABULARY", 20)
    training.data.cache_clear()
    yield
    training.data.cache_clear()


def test_short_convolution_and_attention_look_it_up(few_tokens):
    found = training.recall("short conv + attention", 32, 16, 2, 1, 220, 6400)
    assert found["accuracy"] > 0.95
    assert found["took"] <= 220
    assert found["state"] == 4 * (2 * 32 * 16 + 3 * 32)
    assert found["mass"] > 0.8 > 0.2 > found["mass_other"]
    assert found["effect"] > 1 > 0.3 > abs(found["effect_other"])
    assert found["places_same"] > 0.9 > 0.6 > found["places_other_same"]
    assert found["places"] > 0.6 > abs(found["places_other"])
    assert found["gaps"]
    assert all(value > 0.9 for value in found["gaps"].values())


def test_one_step_is_chance(few_tokens):
    assert training.recall("short conv + attention", 32, 16, 2, 0, 1, 640)["accuracy"] < 0.3


@pytest.mark.parametrize("model", training.TRUNKS)
def test_each_trunk_trains_and_is_asked(model, few_tokens):
    if model == "Orchid":
        found = training.last_recall(model, 8, 16, 2, 0, 1, 128)
        assert 0 <= found["last"] <= 1
        return
    found = training.recall(model, 8, 16, 2, 0, 1, 128)
    assert (found["state"] is None) == (model == "selective")
    assert 0 <= found["mass"] <= 1
    assert found["effect"] == found["effect"]


def test_effects_come_from_the_place_that_is_patched():
    """Nothing from behind the query; all of it where the query itself is read otherwise."""
    torch.manual_seed(0)
    net = training.TRUNKS["attention"].build(16, 16).eval()
    for part in net.parameters():
        nn.init.normal_(part, std=0.3)
    test, draw = training.data(16, 2, 40, 1), torch.Generator().manual_seed(0)
    behind = torch.full_like(test.queries, 15)
    before = test.queries < 15
    assert before.any()
    assert float(training.effects(net, test, behind, draw)[before].abs().max()) == 0
    assert float(training.effects(net, test, test.queries, draw).abs().min()) > 0


def test_effect_of_a_value_is_that_of_its_token_when_nothing_is_mixed_before():
    """With a first mixer that writes nothing, patching what it leaves is changing the token."""
    torch.manual_seed(1)
    net = training.TRUNKS["attention"].build(16, 16).eval()
    for part in net.parameters():
        nn.init.normal_(part, std=0.3)
    first = net.get_submodule(net.heads[0]).out_proj
    nn.init.zeros_(first.weight)
    nn.init.zeros_(first.bias)
    test = training.data(16, 1, 30, 1)
    values = test.values.expand(len(test), -1)
    found = training.effects(net, test, values, torch.Generator().manual_seed(4))
    again = torch.Generator().manual_seed(4)
    changed = test.inputs.clone()
    changed[:, 1:2] = training.other_tokens(test.inputs[:, 1:2], again)

    def right(ids: Tensor) -> Tensor:
        rows = torch.arange(len(ids))
        logits = net(ids)[rows, test.queries[:, 0]].log_softmax(-1)
        return logits[rows, test.labels.gather(1, test.queries)[:, 0]]

    with torch.no_grad():
        want = right(test.inputs) - right(changed)
    torch.testing.assert_close(found[:, 0], want, atol=1e-5, rtol=1e-4)


def test_other_tokens_are_of_the_same_half():
    ids = torch.arange(128).repeat(50, 1)
    other = training.other_tokens(ids, torch.Generator().manual_seed(0))
    assert (other != ids).all()
    assert torch.equal(other // 64, ids // 64)


def test_only_the_last_query_is_asked():
    whole = training.data(32, 4, 20, 1)
    last = training.last_query(whole)
    assert torch.equal(last.queries[:, 0], whole.queries.amax(1))
    assert ((last.labels >= 0).sum(1) == 1).all()
    at = last.queries[:, 0]
    rows = torch.arange(len(at))
    assert torch.equal(last.labels[rows, at], whole.labels[rows, at])


def test_base_conv_of_an_orchids_size():
    count = training.parameters(training.TRUNKS["Orchid"].build(16, 32))
    width = training.width_like("BaseConv", count, 32)
    own = training.parameters(training.TRUNKS["BaseConv"].build(width, 32))
    assert abs(own / count - 1) < 0.05


def test_a_log_is_gone_on_with(tmp_path, monkeypatch):
    log = tmp_path / "log.jsonl"
    jobs = [study.Job("recall", "RWKV", seed, 5, 8, 16, 2) for seed in range(3)]
    monkeypatch.setattr(study.Job, "run", lambda job: {"accuracy": job.seed / 10})
    study.run(jobs[:2], log)
    log.write_text(log.read_text() + '{"job": {"part": "rec')  # cut off
    assert list(study.read(log)) == jobs[:2]
    calls = []

    def run(job: study.Job) -> dict[str, float]:
        calls.append(job)
        return {"accuracy": job.seed / 10}

    monkeypatch.setattr(study.Job, "run", run)
    found = study.run(jobs, log)
    assert calls == jobs[2:]
    assert [told["accuracy"] for told in found.values()] == [0.0, 0.1, 0.2]
    assert list(study.read(log)) == jobs


def test_jobs_are_told_apart():
    jobs = list(study.whole())
    assert len(set(jobs)) == len(jobs)
    assert {job.model for job in jobs if job.part == "recall"} == set(study.MIXERS)
    assert len(list(study.quick())) < len(jobs) / 5
    assert json.loads(json.dumps(study.asdict(jobs[0]))) == study.asdict(jobs[0])


def told(accuracy: float, state: int | None = 4096) -> dict[str, object]:
    pointing = dict.fromkeys(tables.POINTING, 0.5)
    return {"accuracy": accuracy, "state": state, "gaps": {"0 to 7": accuracy}, **pointing}


def test_tables_hold_means_spread_and_bytes(tmp_path):
    found = {
        study.Job("recall", "RWKV", 0, 5, 16, 32, 4): told(0.25),
        study.Job("recall", "RWKV", 1, 5, 16, 32, 4): told(0.75),
        study.Job("recall", "selective", 0, 5, 16, 32, 4): told(1.0, None),
        study.Job("recall", "RWKV", 0, 5, 32, 64, 8): told(0.125, 8192),
    }
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- recall -->\nformer words\n<!-- /recall -->\nafter\n")
    study.write(page, found, 9)
    text = page.read_text()
    assert text.startswith("before\n<!-- recall -->\n4 of 9 trainings")
    assert text.endswith("<!-- /recall -->\nafter\n")
    assert "former words" not in text
    assert "| RWKV | 0.50 (0.25 to 0.75); 4,096 B |" in text
    assert "| selective | 1.00; no figure |" in text
    assert "chance among the values of a sequence 0.125" in text
    assert "Skipped" in text
    drawn = ElementTree.fromstring(page.with_suffix(".svg").read_text())
    svg = "{http://www.w3.org/2000/svg}"
    assert len(drawn.findall(f"{svg}circle")) == 1
    titles = [title.text for title in drawn.iter(f"{svg}title")]
    assert "RWKV, 64 tokens" in titles
    assert not any(str(title).startswith("selective") for title in titles)


def test_blocks_of_other_orders_are_as_many_and_causal():
    torch.manual_seed(0)
    blocks = (torch.rand(2, 3, 6, 6) > 0.4).tril()
    for chosen in (
        parts._nearest(blocks, None),
        parts._drawn(0)(blocks, None),
        parts._first(torch.rand(2, 3, 6, 6), blocks),
    ):
        assert torch.equal(chosen.sum(-1), blocks.sum(-1))
        assert not chosen.triu(1).any()
    nearest = parts._nearest(blocks, None)
    counts = blocks.sum(-1)
    for row in range(6):
        first = row + 1 - counts[..., row]
        want = torch.arange(6) >= first[..., None]
        assert torch.equal(nearest[..., row, :], want & (torch.arange(6) <= row))


def test_rows_of_softmax_sum_to_one_and_those_of_sigmoids_to_what_the_bias_says():
    torch.manual_seed(0)
    x = torch.rand(4, 1, 8, 8)
    sums = {}
    for name, score in parts.SCORES.items():
        net = ll.load("deit_tiny", weights=None, **parts.DIGITS, **parts.ATTENTION, **score)
        sums[name] = parts.row_sums(net.eval(), x)
    assert sums["softmax"] == pytest.approx([1.0, 1.0], abs=1e-5)
    assert all(0.5 < value < 2 for value in sums["sigmoid, bias -ln n"])
    assert all(value > 5 for value in sums["sigmoid, no bias"])

"""The planted benchmark: its prompts, its training, and what the models that come with it hold."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import limelight as ll

BENCHMARKS = Path(ll.__file__).parent / "benchmarks"
MODELS = sorted((BENCHMARKS / "planted").glob("*.json"))

sys.path.insert(0, str(BENCHMARKS))
import planted  # noqa: E402
import planted_check as checks  # noqa: E402
import planted_tasks as tasks  # noqa: E402


def shipped(path: Path) -> tuple[Any, dict[str, Any]]:
    told = json.loads(path.read_text())
    weights = path.with_suffix(".safetensors")
    return ll.load("attention_only", weights, **told["config"]), told


def truth_of(task: dict[str, Any]) -> Tensor:
    truth = torch.zeros(planted.LAYERS, planted.HEADS, dtype=torch.bool)
    truth[tuple(torch.tensor(task["truth"]).T)] = True
    return truth


def test_sequences_hold_each_token_twice():
    ids = tasks.sequences(50, torch.Generator().manual_seed(0))
    first, second = ids[:, : tasks.HALF], ids[:, tasks.HALF :]
    assert torch.equal(first.sort(1).values, second.sort(1).values)
    assert all(len(row.unique()) == tasks.HALF for row in first)


def test_answers_by_hand():
    first = list(range(tasks.HALF))
    ids = torch.tensor([first + first[::-1]])
    found, seen = tasks.answers(ids)
    assert seen[0].tolist() == first[::-1]
    for t, offset in enumerate(tasks.OFFSETS):
        places = [i + offset for i in first[::-1]]
        assert found[0, :, t].tolist() == [p if 0 <= p < tasks.HALF else -100 for p in places]


@pytest.mark.parametrize("task", range(4))
@pytest.mark.parametrize("corrupt", ["all", "answer"])
def test_prompts_ask_the_same_token_and_get_another_answer(task, corrupt):
    asked = tasks.prompts(task, 40, 0, corrupt)
    assert asked.clean.shape == asked.corrupt.shape == (40, tasks.LENGTH)
    assert torch.equal(asked.clean[:, -1], asked.corrupt[:, -1])
    changed = (asked.clean != asked.corrupt).sum(1)
    assert (changed == 2).all() if corrupt == "answer" else (changed > 2).all()
    for ids, wanted in ((asked.clean, asked.good), (asked.corrupt, asked.bad)):
        own = tasks.answers(ids)[0][:, -1, task] + task * tasks.TOKENS
        assert torch.equal(own, wanted)
    assert (asked.good != asked.bad).all()
    again = tasks.prompts(task, 40, 0, corrupt)
    assert torch.equal(again.clean, asked.clean)


def test_the_forward_by_hand_is_the_models():
    model = ll.load("attention_only", **planted.CONFIG)
    ids = tasks.sequences(3, torch.Generator().manual_seed(0))
    run = planted.forward(model, ids, lambda layer, z: z)
    torch.testing.assert_close(run.logits, model(ids))
    trace = ll.trace(model, ids, "heads")
    torch.testing.assert_close(run.z[1], trace["layers.1.attn:heads"].act)


def test_other_heads_are_replaced_and_those_of_the_group_are_not():
    generator = torch.Generator().manual_seed(0)
    heads, group = planted.plant(generator), torch.arange(8) % 8
    z = torch.randn(8, planted.HEADS, 5, 3, generator=generator)
    for silent in (True, False):
        found = planted.others(heads, group, silent, generator)(1, z)
        for i in range(8):
            own = int(heads[1][i])
            assert torch.equal(found[i, own], z[i, own])
        changed = (found != z).flatten(2).any(-1).float().mean()
        assert changed > 0.7
        torch.testing.assert_close(found.mean(0)[own], z.mean(0)[own], atol=1.0, rtol=0)


def test_wanted_norms_tell_nothing_of_any_task():
    heads = planted.plant(torch.Generator().manual_seed(3))
    steps = planted.ladder(heads, 1.5, 0.2)
    for t in range(4):
        truth = torch.zeros_like(steps, dtype=torch.bool)
        truth = truth.scatter(1, heads[:, 2 * t : 2 * t + 2], True)
        assert checks.auc(steps, truth) == pytest.approx(0.5)
    assert steps.exp().min() == pytest.approx(1.5 * 2.718281828**-0.2, rel=1e-5)


def test_training_is_seeded_and_saves_what_loads(tmp_path):
    how = planted.Schedule(steps=2, batch=16)
    made = [planted.train(1, how) for _ in range(2)]
    for a, b in zip(made[0][0].parameters(), made[1][0].parameters(), strict=True):
        assert torch.equal(a, b)
    planted.save(tmp_path, 1, planted.rounded(made[0][0]), {"config": planted.CONFIG})
    model, _ = shipped(tmp_path / "planted_1.json")
    ids = tasks.sequences(2, torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(ids), made[0][0](ids))


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
@pytest.mark.parametrize("task", range(4))
def test_effects_are_those_that_the_file_tells(path, task):
    model, told = shipped(path)
    own, limits = told["tasks"][task], told["limits"]
    asked, truth = tasks.prompts(task, 256, 7), truth_of(own)
    with torch.no_grad():
        found = checks.effects(model, asked)["resample"]
        left = checks.kept(model, asked, truth)
    assert found[truth].min() > limits["circuit"]
    assert found[~truth].abs().max() < 2 * limits["decoy"]  # half the prompts, other ones
    assert left > limits["kept"]
    torch.testing.assert_close(found, torch.tensor(own["effects"]["resample"]), atol=0.06, rtol=0)


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_every_head_serves_one_task_and_norms_do_not_tell_which(path):
    model, told = shipped(path)
    truths = torch.stack([truth_of(task) for task in told["tasks"]])
    assert (truths.sum(0) == 1).all()
    ids = tasks.prompts(0, 128, 11).clean
    for where, values in checks.norms(model, ids).items():
        aucs = [checks.auc(values, truth) for truth in truths]
        assert sum(aucs) / len(aucs) == pytest.approx(0.5)  # whatever knows no task
        told_aucs = [task["auc"][f"norm, {where}"] for task in told["tasks"]]
        assert aucs == pytest.approx(told_aucs, abs=0.2)


def test_auc_counts_ties_half():
    truth = torch.tensor([True, False, False, True])
    assert checks.auc(torch.tensor([3.0, 1.0, 2.0, 4.0]), truth) == 1
    assert checks.auc(torch.zeros(4), truth) == 0.5
    assert checks.auc(torch.tensor([1.0, 2.0, 0.0, 1.0]), truth) == 0.5

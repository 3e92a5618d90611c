"""Whether a planted model holds what it should: effects of heads, and what else tells them apart.

Thresholds were fixed before any score was computed: exchanging a head of the circuit for the same
head in another prompt loses more than .1 of the metric, a decoy less than .01; with all decoys
exchanged at least .9 is left: then the truth is verified. Norm and diversity of code should tell
circuit and decoys apart with an AUC of .3 to .7; those that do not are listed as `outside`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from planted_tasks import NAMES, OFFSETS, Prompts, prompts
from torch import Tensor, nn

import limelight as ll

LIMITS: dict[str, Any] = {"circuit": 0.1, "decoy": 0.01, "kept": 0.9, "auc": [0.3, 0.7]}
PROMPTS, CODES = 512, 200


def check(model: nn.Module, heads: Tensor, seed: int = 1000) -> dict[str, Any]:
    """The truth of each task, with effects, controls and whether the limits hold."""
    tasks = [_task(model, heads, t, seed) for t in range(len(OFFSETS))]
    return {"limits": LIMITS, "verified": all(t["verified"] for t in tasks), "tasks": tasks}


def _task(model: nn.Module, heads: Tensor, task: int, seed: int) -> dict[str, Any]:
    asked = prompts(task, PROMPTS, seed + task)
    truth = torch.zeros(heads.shape, dtype=torch.bool)
    truth = truth.scatter(1, heads[:, 2 * task : 2 * task + 2], True)
    found = effects(model, asked)
    sizes, codes = norms(model, asked.clean), diversity(model, asked.clean)
    aucs = {
        f"{what}, {where}": auc(values, truth)
        for what, by_place in (("norm", sizes), ("diversity", codes))
        for where, values in by_place.items()
    }
    told = {
        "name": NAMES[task],
        "offset": OFFSETS[task],
        "truth": [[int(i) for i in place] for place in truth.nonzero()],
        "accuracy": _right(model, asked),
        "kept": kept(model, asked, truth),
        "effects": found,
        "norms": sizes,
        "diversity": codes,
        "auc": aucs,
    }
    patched, (low, high) = found["resample"], LIMITS["auc"]
    told["verified"] = bool(
        patched[truth].min() > LIMITS["circuit"]
        and patched[~truth].abs().max() < LIMITS["decoy"]
        and told["kept"] >= LIMITS["kept"]
    )
    told["outside"] = [name for name, a in aucs.items() if not low <= a <= high]
    return _plain(told)


def effects(model: nn.Module, asked: Prompts) -> dict[str, Tensor]:
    """The lost share of the metric, `l h`, with each head as in the corrupt prompt, or at its mean.

    Of the first, the whole is the clean metric minus the corrupt one; of the second the clean one.
    """
    other = ll.trace(model, asked.corrupt, "heads")
    clean, corrupt = metric(model(asked.clean), asked), metric(model(asked.corrupt), asked)

    def lost(edit: Callable, whole: float) -> Tensor:
        rows = [
            [
                (clean - metric(ll.patch(model, asked.clean, {site(n, h): edit}), asked)) / whole
                for h in range(layer.attn.num_heads)
            ]
            for n, layer in enumerate(model.layers)
        ]
        return torch.tensor(rows)

    with torch.no_grad():
        return {"resample": lost(ll.swap(other), clean - corrupt), "mean": lost(ll.mean(), clean)}


def kept(model: nn.Module, asked: Prompts, truth: Tensor) -> float:
    """The share of the metric that is left with all other heads as in the corrupt prompts."""
    swap = ll.swap(ll.trace(model, asked.corrupt, "heads"))
    edits = {site(int(n), int(h)): swap for n, h in (~truth).nonzero()}
    clean, corrupt = metric(model(asked.clean), asked), metric(model(asked.corrupt), asked)
    return (metric(ll.patch(model, asked.clean, edits), asked) - corrupt) / (clean - corrupt)


def site(layer: int, head: int) -> str:
    """The address of a head."""
    return f"layers.{layer}.attn:heads.{head}"


def metric(logits: Tensor, asked: Prompts) -> float:
    """The mean of good minus bad at the last token."""
    row = torch.arange(len(logits))
    return float((logits[row, -1, asked.good] - logits[row, -1, asked.bad]).mean().detach())


def _right(model: nn.Module, asked: Prompts) -> float:
    """How often the good answer is the likeliest of its task."""
    size = model.embed.num_embeddings // len(OFFSETS)
    start = int(asked.good[0]) // size * size
    own = model(asked.clean)[:, -1, start : start + size]
    return float((own.argmax(-1) + start == asked.good).float().mean())


def outputs(model: nn.Module, ids: Tensor) -> Tensor:
    """What each head adds to the residual stream, `l b h n m`."""
    trace = ll.trace(model, ids, "heads")
    parts = []
    for number, layer in enumerate(model.layers):
        z = trace[f"layers.{number}.attn:heads"].act
        weight = layer.attn.out.weight.detach().unflatten(1, (z.shape[1], -1))
        parts.append(torch.einsum("bhnd,mhd->bhnm", z, weight))
    return torch.stack(parts)


def norms(model: nn.Module, ids: Tensor) -> dict[str, Tensor]:
    """The mean norm of each head's output, `l h`: over all positions, and at the last."""
    norm = outputs(model, ids).norm(dim=-1)
    return {"all": norm.mean((1, 3)), "last": norm[..., -1].mean(1)}


def diversity(model: nn.Module, ids: Tensor) -> dict[str, Tensor]:
    """How many codes each head uses, `l h`, of one codebook for all that knows no task.

    The codebook: 200 outputs drawn from all heads and prompts. The outputs: their mean over
    positions, and the last one.
    """
    every = outputs(model, ids)
    generator = torch.Generator().manual_seed(0)
    found = {}
    for where, x in (("all", every.mean(3)), ("last", every[..., -1, :])):
        pool = x.flatten(0, 2)
        book = pool[torch.randperm(len(pool), generator=generator)[:CODES]]
        codes = torch.cdist(pool, book).argmin(-1).reshape(x.shape[:3])
        used = [[len(head.unique()) for head in layer.T] for layer in codes]
        found[where] = torch.tensor(used)
    return found


def auc(score: Tensor, truth: Tensor) -> float:
    """How often a head of the circuit has a higher score than a decoy; ties count half."""
    gap = score[truth].double()[:, None] - score[~truth].double()[None]
    return float(((gap > 0) + 0.5 * (gap == 0)).mean())


def _plain(value: Any) -> Any:
    """Numbers and lists, with four digits."""
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return round(value, 4) if isinstance(value, float) else value


def table(told: dict[str, Any]) -> str:
    """The effects, norms and codes of every task, one line for the circuit and one for decoys."""
    lines = [f"seed {told['seed']}, {told['cpu_seconds']} CPU s, verified: {told['verified']}"]
    for task in told["tasks"]:
        truth = torch.zeros(torch.tensor(task["norms"]["all"]).shape, dtype=torch.bool)
        truth[tuple(torch.tensor(task["truth"]).T)] = True
        lines.append(
            f"{task['name']}: right {task['accuracy']:.3f}, kept {task['kept']:.3f}, AUC "
            + ", ".join(f"{name} {value:.2f}" for name, value in task["auc"].items())
            + f"; outside: {', '.join(task['outside']) or 'none'}"
        )
        for name, own in (("circuit", truth), ("decoys", ~truth)):
            lines.append(f"  {name}: " + ", ".join(_ranges(task, own)))
    return "\n".join(lines)


def _ranges(task: dict[str, Any], own: Tensor) -> list[str]:
    return [
        f"{what} {where} {float(x.min()):.3f} to {float(x.max()):.3f}"
        for what in ("effects", "norms", "diversity")
        for where, values in task[what].items()
        for x in [torch.tensor(values)[own].float()]
    ]

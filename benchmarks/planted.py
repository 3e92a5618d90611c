"""The planted benchmark: a small transformer of which it is known which heads do what.

    python benchmarks/planted.py FOLDER [SEED ...]

It answers four questions at every token (planted_tasks.py). Each is given four of the 16 heads:
two of layer 0 that look back and two of layer 1 that find the first occurrence, one each for lower
and for upper tokens. In training, all other heads carry what they do in other sequences, so
nothing but the heads of a question tells its answer. For one question the other twelve are decoys:
alive on the same prompts, doing the same kind of work. A ladder of wanted norms stands in both
layers, on which each question has one step from below and the mirrored one from above: norms tell
nothing. What is planted is checked by ablation, with thresholds that were fixed beforehand.
Writes planted_SEED.safetensors and planted_SEED.json: configuration, truth, effects, controls.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from planted_check import check, table
from planted_tasks import HALF, LENGTH, OFFSETS, TOKENS, answers, sequences
from safetensors.torch import save_file
from torch import Tensor, nn

import limelight as ll

LAYERS, HEADS, TASKS = 2, 8, len(OFFSETS)
CONFIG = {
    "vocab_size": TASKS * TOKENS,
    "d_model": 128,
    "n_layers": LAYERS,
    "n_heads": HEADS,
    "n_ctx": LENGTH,
}
Change = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class Schedule:
    """How a model is trained.

    alone      share of the steps in which other heads are silent (at their mean), not noisy
    hint       share of the steps in which attention is shown where to look, less and less
    balance    weight of the wanted norms, `norm` times e^-spread to e^spread
    smooth     label smoothing: answers have a wanted size, so noise is paid for
    """

    steps: int = 800
    batch: int = 192
    rate: float = 3e-3
    alone: float = 0.3
    hint: float = 0.3
    balance: float = 4.0
    norm: float = 1.5
    spread: float = 0.2
    embed: float = 0.3
    smooth: float = 0.1


@dataclass(frozen=True, eq=False)
class Forward:
    """One forward by hand: logits, and per layer the maps `b h n m` and the z `b h n d`."""

    logits: Tensor
    maps: list[Tensor]
    z: list[Tensor]


def forward(model: nn.Module, ids: Tensor, change: Change) -> Forward:
    """The model's forward, with the z of each layer changed on their way."""
    x = model.embed(ids) + model.pos_embed.weight[: ids.shape[1]]
    future = torch.ones(ids.shape[1], ids.shape[1]).triu(1).bool()
    maps, kept = [], []
    for number, layer in enumerate(model.layers):
        qkv = layer.attn.qkv(layer.norm(x)).unflatten(-1, (3, HEADS, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(future, -math.inf)
        maps.append(scores.softmax(-1))
        kept.append(maps[-1] @ v)
        z = change(number, kept[-1])
        x = x + layer.attn.out(z.transpose(1, 2).flatten(2))
    return Forward(model.unembed(model.norm(x)), maps, kept)


def plant(generator: torch.Generator) -> Tensor:
    """Which head of each layer serves which group, `l g`; group 2 t + c is class c of task t."""
    return torch.stack([torch.randperm(HEADS, generator=generator) for _ in range(LAYERS)])


def others(heads: Tensor, group: Tensor, silent: bool, generator: torch.Generator) -> Change:
    """All heads but those of each sequence's group at their mean, or as in other sequences."""
    b = len(group)
    order = torch.rand(LAYERS, HEADS, b, generator=generator).argsort(-1)

    def change(layer: int, z: Tensor) -> Tensor:
        own = F.one_hot(heads[layer][group], HEADS).bool()[:, :, None, None]
        other = z.mean(0, keepdim=True) if silent else z[order[layer].T, torch.arange(HEADS)]
        return torch.where(own, z, other)

    return change


def answer_loss(run: Forward, wanted: Tensor, task: Tensor, smooth: float) -> Tensor:
    """Cross-entropy within the task's own part of the vocabulary."""
    parts = run.logits[:, HALF:].unflatten(-1, (TASKS, TOKENS))
    own = parts[torch.arange(len(task)), :, task]
    return F.cross_entropy(own.flatten(0, 1), wanted.flatten(), label_smoothing=smooth)


def hint_loss(run: Forward, heads: Tensor, group: Tensor, wanted: Tensor, seen: Tensor) -> Tensor:
    """How little the group's heads attend to where they should look."""
    row, offset = torch.arange(len(group)), torch.tensor(OFFSETS)[group // 2]
    back = torch.arange(LENGTH)[None] - offset.abs()[:, None]
    first = _attended(run.maps[0][row, heads[0][group]], back, back >= 0)
    place = seen + offset.clamp(min=0)[:, None]
    second = run.maps[1][row, heads[1][group]][:, HALF:]
    return first + _attended(second, place, wanted >= 0)


def _attended(maps: Tensor, place: Tensor, known: Tensor) -> Tensor:
    there = maps.gather(2, place.clamp(0, LENGTH - 1)[:, :, None])[..., 0]
    return -there.clamp(min=1e-6).log()[known].mean()


def norm_loss(model: nn.Module, run: Forward, wanted: Tensor) -> Tensor:
    """How far the norms of heads in the residual stream are from the wanted ones, `l h`."""
    loss = torch.zeros(())
    for layer, z, log in zip(model.layers, run.z, wanted, strict=True):
        w = layer.attn.out.weight.unflatten(1, (HEADS, -1)).permute(1, 2, 0)
        square = torch.einsum("bhnd,hde,bhne->bhn", z, w @ w.mT, z)
        for part in (square, square[..., HALF:], square[..., -1:]):
            loss = loss + (part.mean((0, 2)).add(1e-6).log() / 2 - log).square().mean() / LAYERS
    return loss


def ladder(heads: Tensor, norm: float, spread: float) -> Tensor:
    """Wanted log norms `l h`: the two heads of a task stand on mirrored steps."""
    steps = math.log(norm) + torch.linspace(-spread, spread, HEADS)
    steps = torch.stack([steps[:TASKS], steps.flip(0)[:TASKS]], 1).flatten()
    return torch.stack([torch.empty(HEADS).scatter(0, own, steps) for own in heads])


def train(seed: int, how: Schedule) -> tuple[nn.Module, Tensor]:
    """A model and its groups' heads, `l g`."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = ll.load("attention_only", **CONFIG).train()
    for part in (model.embed, model.pos_embed):
        nn.init.normal_(part.weight, std=how.embed)
    heads = plant(generator)
    wanted = ladder(heads, how.norm, how.spread)
    tuner = torch.optim.AdamW(model.parameters(), lr=how.rate, betas=(0.9, 0.98))
    for step in range(how.steps):
        warm = min(1.0, (step + 1) / 50)
        for part in tuner.param_groups:
            part["lr"] = how.rate * warm * (1 + math.cos(math.pi * step / how.steps)) / 2
        loss = _loss(model, heads, wanted, step / how.steps, how, generator)
        tuner.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        tuner.step()
        if step % 100 == 0:
            print(f"seed {seed} step {step} loss {float(loss.detach()):.3f}", flush=True)
    return model.eval(), heads


def _loss(
    model: nn.Module,
    heads: Tensor,
    norms: Tensor,
    done: float,
    how: Schedule,
    generator: torch.Generator,
) -> Tensor:
    ids = sequences(how.batch, generator)
    every, seen = answers(ids)
    group = torch.arange(how.batch) % (2 * TASKS)
    wanted = every[torch.arange(how.batch), :, group // 2]
    upper = ids[:, HALF:] >= TOKENS // 2
    wanted = wanted.masked_fill(upper != (group % 2 == 1)[:, None], -100)
    run = forward(model, ids, others(heads, group, done < how.alone, generator))
    loss = answer_loss(run, wanted, group // 2, how.smooth)
    loss = loss + how.balance * norm_loss(model, run, norms)
    if done < how.hint:
        loss = loss + (1 - done / how.hint) * hint_loss(run, heads, group, wanted, seen)
    return loss


def save(folder: Path, seed: int, model: nn.Module, told: dict[str, Any]) -> None:
    """Weights in half precision, as they were checked, and what is known of them."""
    state = {name: x.half().contiguous() for name, x in model.state_dict().items()}
    path = folder / f"planted_{seed}.safetensors"
    save_file(state, path)
    path.chmod(0o644)
    text = json.dumps(told, indent=1)
    (folder / f"planted_{seed}.json").write_text(text + "\n")


def rounded(model: nn.Module) -> nn.Module:
    """The model with weights as half precision keeps them."""
    for p in model.parameters():
        p.data = p.data.half().float()
    return model


def main(folder: str, seeds: Sequence[str]) -> None:
    """Train, check and save one model per seed."""
    torch.set_num_threads(1)
    Path(folder).mkdir(parents=True, exist_ok=True)
    for seed in map(int, seeds or ["0"]):
        start = time.process_time()
        model, heads = train(seed, Schedule())
        spent = time.process_time() - start
        told = check(rounded(model), heads)
        told = {"seed": seed, "cpu_seconds": round(spent), "config": CONFIG, **told}
        save(Path(folder), seed, model, told)
        print(table(told))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

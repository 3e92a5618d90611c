"""Circuits: what the scores cost beside bare passes, and what they find beside their controls.

`python benchmarks/circuits.py speed|study|planted [--model NAME] [--weights FILE] [--task ioi]`

speed  ratios of CPU time, interleaved in one process: the discrete autoencoder's whole route over
       all heads, attribution patching, edge attribution, exact patching of every head
study  every method and control on tasks of our own making, against exact patching on other
       pairs: average precision, AUC, precision at k, Spearman, each beside its null
planted  the same on small models whose circuits were planted among decoys that are as large
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch
from measure import Ratio, Row, machine, rounds, seconds
from planted_tasks import prompts
from torch import nn

import limelight as ll
from limelight.methods.circuits.circuit import DEFAULT
from limelight.methods.circuits.codes.sae import fit
from limelight.methods.circuits.codes.sae_options import Options
from limelight.methods.circuits.evidence import Evidence
from limelight.methods.circuits.head_outputs import Outputs, head_outputs
from limelight.methods.circuits.interventions import each_head
from limelight.methods.circuits.scores.attribution_patching import attribution
from limelight.methods.circuits.scores.discrete_sae import discrete_sae
from limelight.methods.circuits.scores.edges import edge_attribution

PLANTED = Path(__file__).parent / "planted"
EXACT = 2  # pairs that exact patching is timed on; its cost grows with their number
FIGURES = ["ap", "ap_null", "ap_low", "auc", "auc_null", "precision_k", "spearman", "seconds"]


def bare(net: nn.Module, pairs: ll.Pairs, sides: str, *, backward: bool = False) -> None:
    """Plain forwards of the pairs, as many at a time as limelight runs; backwards if wanted."""
    for group in pairs.batches(16):
        for side in sides.split():
            x = group.clean if side == "clean" else group.corrupt
            if not backward:
                with torch.no_grad():
                    net(x)
                continue
            with embedding_is_leaf(net):
                group.pairs.target()(net(x)).sum().backward()


@contextmanager
def embedding_is_leaf(net: nn.Module) -> Iterator[None]:
    """Weights frozen, the graph begins at the output of the embedding."""
    table = next(m for m in net.modules() if isinstance(m, nn.Embedding))
    hook = table.register_forward_hook(lambda m, args, out: out.detach().requires_grad_())
    net.requires_grad_(False)
    try:
        yield
    finally:
        hook.remove()
        net.requires_grad_(True)


def speed(net: nn.Module, pairs: ll.Pairs, count: int) -> list[Row]:
    outputs = head_outputs(net, pairs[0].clean[None])

    def fresh(work: Callable[[Evidence], object]) -> Callable[[], object]:
        return lambda: work(Evidence(net, pairs, outputs=outputs))

    def published(seeds: int) -> Callable[[], object]:
        return fresh(lambda e: discrete_sae(e, seeds=seeds, nulls=20))

    times = rounds(
        {
            "forwards": lambda: bare(net, pairs, "clean corrupt"),
            "forward and backward": lambda: bare(net, pairs, "clean", backward=True),
            "discrete_sae": published(1),
            "discrete_sae, 5 seeds": published(5),
            "attribution": fresh(_attribution),
            "edge_attribution": fresh(edge_attribution),
        },
        count,
        warm=False,
    )
    exact = _exact(net, pairs, outputs)
    z = Evidence(net, pairs, outputs=outputs).examples()
    training = [seconds(lambda: fit(z, outputs.weight, options=Options())) for _ in range(count)]
    route, seeds = times["discrete_sae"], times["discrete_sae, 5 seeds"]
    whole = [exact] * count
    note = f"all {len(outputs)} heads, {len(pairs)} + {len(pairs)} prompts"
    ratio = Ratio.of(route, times["forwards"])
    rows = [Row.most(f"discrete autoencoder, {note}, over bare forwards", ratio.median, 1.3, ratio)]
    ratio = Ratio.of(route, times["attribution"])
    rows.append(Row.most("the same over attribution patching", ratio.median, 1.0, ratio))
    ratio = Ratio.of(route, whole)
    share = f"{ratio.median:.4f} (exact patching: {exact:.0f} s, from {EXACT} pairs)"
    rows.append(Row.most("the same over exact patching of every head", ratio.median, 0.05, share))
    ratio = Ratio.of(seeds, times["forwards"])
    rows.append(
        Row("the same with 5 seeds over bare forwards", f"{ratio} x", "for comparison", True)
    )
    middle = statistics.median(training)
    rows.append(Row.most("training of 5 seeds", middle, 10, f"{middle:.1f}", "s"))
    ratio = Ratio.of(times["attribution"], times["forward and backward"])
    rows.append(
        Row(
            "attribution patching over one forward and backward",
            f"{ratio} x",
            "for comparison",
            True,
        )
    )
    ratio = Ratio.of(times["edge_attribution"], times["forward and backward"])
    rows.append(
        Row.most("edge attribution over one forward and backward", ratio.median, 3.5, ratio)
    )
    return rows


def _attribution(evidence: Evidence) -> object:
    evidence.run("clean", gradient=True)
    return attribution(evidence)


def _exact(net: nn.Module, pairs: ll.Pairs, outputs: Outputs) -> float:
    """Seconds of exact patching of every head on all pairs, from a few of them."""
    few = Evidence(net, pairs[:EXACT], outputs=outputs)
    new = few.corrupt.z
    few.clean  # noqa: B018  counted elsewhere
    return seconds(lambda: each_head(few, "clean", new, EXACT)) * len(pairs) / EXACT


def study(net: nn.Module, task: str, count: int, truth_pairs: int, seed: int) -> pd.DataFrame:
    """The evaluation of every default method on one task."""
    start = time.perf_counter()
    found = ll.circuit(net, task, count=count, truth_pairs=truth_pairs, seed=seed)
    print(f"{task}: {time.perf_counter() - start:.0f} s; {found.truth and found.truth.version}")
    table = found.evaluation
    return table[["method", *(f for f in FIGURES if f in table)]].round(3)


def planted(count: int) -> pd.DataFrame:
    """Mean figures of every method over the truths of the planted models: here chance is even."""
    methods = [
        *DEFAULT,
        "attribution:8",
        "code_attr,steps=8",
        "ablation",
        "activation_patching",
        "acdc:0.02,by=metric",
    ]
    tables = []
    for file in sorted(PLANTED.glob("*.json")):
        told = json.loads(file.read_text())
        net = ll.load("attention_only", file.with_suffix(".safetensors"), **told["config"])
        for number, task in enumerate(told["tasks"]):
            asked = prompts(number, count, 7)
            sides = zip(asked.clean, asked.corrupt, asked.good, asked.bad, strict=True)
            pairs = tuple(ll.Pair(c, d, (int(g),), (int(b),)) for c, d, g, b in sides)
            heads = [(layer, head) for layer, head in task["truth"]]
            found = ll.circuit(net, ll.Pairs(task["name"], pairs), methods, truth=heads)
            tables.append(found.evaluation)
    whole = pd.concat(tables)
    figures = [f for f in FIGURES if f in whole]
    return whole.groupby("method", sort=False)[figures].mean().round(3).reset_index()


def markdown(table: pd.DataFrame) -> str:
    """A table for RESULTS.md."""
    rows = [list(table.columns), ["---"] * table.shape[1]]
    rows += [["" if x != x else str(x) for x in row] for row in table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    ask.add_argument("what", choices=("speed", "study", "planted"))
    ask.add_argument("--model", default="smollm2_135m")
    ask.add_argument("--weights", default="default")
    ask.add_argument("--task", action="append")
    ask.add_argument("--count", type=int, default=64)
    ask.add_argument("--truth-pairs", type=int, default=16)
    ask.add_argument("--rounds", type=int, default=3)
    ask.add_argument("--seed", type=int, default=0)
    given = ask.parse_args()
    if given.what == "planted":
        print(markdown(planted(given.count)))
        return
    net = ll.load(given.model, given.weights)
    tasks = given.task or ["ioi"]
    print(f"{given.model}; {machine()}\n")
    if given.what == "study":
        for task in tasks:
            table = study(net, task, given.count, given.truth_pairs, given.seed)
            print(markdown(table), "\n")
        return
    reader = getattr(net, "tokenizer", None) or next(
        m.num_embeddings for m in net.modules() if isinstance(m, nn.Embedding)
    )
    pairs = ll.task(tasks[0], reader, count=given.count, seed=given.seed)
    print("| what | measured | goal | met |\n| --- | --- | --- | --- |")
    for row in speed(net, pairs, given.rounds):
        print(f"| {row.what} | {row.figure} | {row.goal} | {'yes' if row.met else 'no'} |")


if __name__ == "__main__":
    main()

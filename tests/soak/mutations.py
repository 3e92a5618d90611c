"""Fifty lines broken by hand, each in a copy of the package, beside the tests that must notice."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEFT_OUT = (".git", ".venv", ".typing", "demo", "study", "build", "*.egg-info", "__pycache__")

# File, what stands there, what is put in its place, the nearest tests.
MUTATIONS = (
    ("kernels/attention/reference.py", "return out if x.row_factor is None else by_row(out, x.row_factor)", "return out", "tests/kernels/attention"),
    ("kernels/gated_linear/reference.py", "scores.flip([-1]) if reverse else scores", "scores", "tests/kernels/gated_linear"),
    ("kernels/long_convolution/reference.py", "* (lag == 0)", "* (lag == 1)", "tests/kernels/long_convolution"),
    ("kernels/neighborhood/axes.py", "start = (leader - left).clamp(min=0)", "start = leader - left", "tests/kernels/neighborhood"),
    ("kernels/neighborhood/visits.py", "1 - pairs / tokens**2", "pairs / tokens**2", "tests/kernels/neighborhood"),
    ("kernels/taylor/reference.py", "places > places[rows, None]", "places >= places[rows, None]", "tests/kernels/taylor"),
    ("kernels/wkv/reference.py", "(apart - 1).clamp(min=0)", "apart.clamp(min=0)", "tests/kernels/wkv"),
    ("kernels/windows.py", "self.size[0] + 2 * self.halo", "self.size[0] + self.halo", "tests/kernels/attention"),
    ("probe/attribution/options.py", "hint is int and not float(value).is_integer()", "False", "tests/probe/attribution"),
    ("probe/attribution/scored_target.py", "< 2 * _ELSEWHERE", "< 0", "tests/probe/engine/test_cautions.py"),
    ("probe/axes/shape_rules.py", "tuple(x[signed(d)] for d in node._saved_dims)", "tuple(x)", "tests/probe/axes"),
    ("probe/backward/fingerprint.py", "tell(getattr(node, setting))", "pass", "tests/probe/capture/test_learnt.py"),
    ("probe/backward/regimes.py", "g.clamp(min=0) for g in grads", "g.abs() for g in grads", "tests/probe/backward"),
    ("probe/backward/tape.py", "n.name().endswith(\"NotImplemented\")", "False", "tests/probe/sites/test_scripted.py"),
    ("probe/capture/inputs.py", "x.detach().requires_grad_().clone()", "x.requires_grad_().clone()", "tests/probe/capture"),
    ("probe/capture/learnt.py", "self.restless or recording.touched or heard", "self.restless or heard", "tests/probe/capture/test_learnt.py"),
    ("probe/capture/model_state.py", "    \"use_checkpoint\",\n", "", "tests/probe/capture"),
    ("probe/engine/batch.py", "replace(batch, ids=batch.ids and takes_ids(model))", "batch", "tests/probe/engine"),
    ("probe/engine/batch.py", "members = {n: rows[n] for n, length in lengths.items() if length == count}", "members = rows", "tests/probe/engine"),
    ("probe/engine/functional.py", "split = split.halved", "split = split", "tests/probe/engine"),
    ("probe/engine/runner.py", "self.seed * 1_000_003 + i", "self.seed + i", "tests/probe/engine"),
    ("probe/relevance/seeds.py", "/ (z.shape[classes] - 1)", "/ z.shape[classes]", "tests/probe/relevance"),
    ("probe/relevance/attention_rules.py", "return gq / 4, gk / 4, gv / 2", "return gq / 2, gk / 2, gv / 2", "tests/probe/relevance"),
    ("probe/relevance/linear_map.py", "bias=bias * scale + shift", "bias=bias + shift", "tests/probe/relevance"),
    ("probe/results/map_values.py", "return bool((self.values < 0).any())", "return False", "tests/probe/results"),
    ("probe/results/rows.py", "site.call or 0", "0", "tests/probe/results"),
    ("probe/sites/initial_weights.py", "rtol=2**-7", "rtol=2**-30", "tests/probe/engine"),
    ("probe/sites/module_tree.py", "self.shape == tree.shape and all(", "all(", "tests/probe/capture/test_learnt.py"),
    ("probe/sites/site.py", "(self.call is None or self.call == site.call)", "True", "tests/probe/sites"),
    ("probe/targets/class_scores.py", "(classes >= logits.shape[1]) | (classes < 0)", "classes < 0", "tests/probe/targets"),
    ("probe/trace/edits.py", "return torch.zeros_like(value)", "return value", "tests/probe/trace"),
    ("methods/attention/locality.py", "(heads.patch[0] * heads.patch[1]) ** 0.5", "heads.patch[0]", "tests/methods/attention"),
    ("methods/cam/gradcam_plus_plus.py", "2 * square +", "square +", "tests/methods/test_golden.py"),
    ("methods/cam/xgradcam.py", "x.sum(2) + 1e-7)", "x.sum(2) + 1e-1)", "tests/methods/test_golden.py"),
    ("methods/circuits/significance.py", "(1 + (null >= score).sum(0))", "(null >= score).sum(0)", "tests/methods/circuits/scores tests/methods/circuits/test_circuit.py"),
    ("methods/combine.py", "v.min(), v.max()) for v in values", "0, v.max()) for v in values", "tests/methods/test_golden.py tests/methods/test_combine.py"),
    ("methods/metrics/complexity.py", "- n - 1", "- n", "tests/methods/metrics"),
    ("methods/metrics/localisation.py", "inside * (inside + 1) / 2", "inside * inside / 2", "tests/methods/metrics"),
    ("methods/metrics/similarity.py", "bias = count / max(count - 1, 1)", "bias = 1.0", "tests/methods/metrics"),
    ("methods/normgrad/normgrad.py", "if kind == \"bias\":", "if False:", "tests/methods/normgrad tests/methods/test_golden.py"),
    ("methods/perturbation/occlusion.py", "seen[area] += 1", "seen[area] = 1", "tests/methods/test_known_values.py tests/methods/test_passes.py"),
    ("models/inputs/preprocessing.py", "Preprocessing(sides(card.size), card.resize", "Preprocessing(sides(card.size), card.size", "tests/models/inputs"),
    ("models/layers/positions.py", "2 * size[0] - 1, 2 * size[1] - 1", "2 * size[1] - 1, 2 * size[0] - 1", "tests/models/test_layers.py tests/models/zoo/test_maxvit.py"),
    ("models/zoo/convit.py", "-1.0])", "-2.0])", "tests/models/zoo/test_convit.py"),
    ("models/zoo/oat/shelf.py", ".cummax(1)", ".cumsum(1)", "tests/reports/explanation/test_mixer.py"),
    ("reports/html/formatting.py", "< 1e-6", "< 1e-1", "tests/reports/html"),
    ("reports/runs/plan.py", "sort_keys=True", "sort_keys=False", "tests/reports/runs/test_run.py"),
    ("reports/runs/sealing.py", "return state.hexdigest().encode()", "return b\"0\" * 64", "tests/reports/runs/test_folder.py"),
    ("reports/scoring/table.py", "old.filter(other)", "old", "tests/reports/scoring"),
    ("cli/terminal.py", "ascii(sign[0])[1:-1]", "sign[0]", "tests/cli"),
)  # fmt: skip


def trial(count: int, seed: int) -> tuple[int, int]:
    """How many of these lines were broken, and how many of them the tests noticed."""
    chosen = list(MUTATIONS)
    random.Random(seed).shuffle(chosen)
    chosen = sorted(chosen[:count], key=MUTATIONS.index)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "limelight"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
        caught = sum(_caught(copy, *mutation) for mutation in chosen)
    return len(chosen), caught


def _caught(copy: Path, path: str, old: str, new: str, tests: str) -> bool:
    """Whether a test fails where the line is broken; the line is whole again afterwards."""
    file = copy / path
    whole = file.read_text(encoding="utf-8")
    if old not in whole:
        raise ValueError(f"{path} no longer holds {old!r}: write another mutation")
    file.write_text(whole.replace(old, new, 1), encoding="utf-8")
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", "-m", "not sweep",
               "-p", "no:cacheprovider", *tests.split()]  # fmt: skip
    env = os.environ | {"PYTHONPATH": str(copy.parent), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True)
    finally:
        file.write_text(whole, encoding="utf-8")
    if done.returncode != 1:
        print(f"not noticed: {path}: {old!r} -> {new!r} ({done.returncode})", flush=True)
    return done.returncode == 1

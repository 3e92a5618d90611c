"""Hostile plans: each is one sentence and exit 2, or a run whose maps are numbers; no code runs."""

from __future__ import annotations

import os
import random
from pathlib import Path

import torch
from soak_commands import answer, here

from limelight.reports.runs.run import Run

_PLAN = {
    "model": '"resnet18"',
    "weights": '"none"',
    "data": '"photos"',
    "methods": '["gradcam"]',
    "sites": '["layer1"]',
    "target": '"top"',
    "limit": "1",
    "workers": "0",
    "hyper": "{ img_size = 32, num_classes = 6 }",
}
_NOTHING = (
    '""', "[]", "{}", "0", "-1", "true", "nan", "inf", "12345678901234567890123", "1e400",
    '"\\u0000"', '"\\u001b[31m"', '"' + "x" * 5000 + '"', "1979-05-27", "[[1]]", '[""]',
)  # fmt: skip
_VALUES = {
    "model": ('"no_such"', '"os:system"', '"photos/p0.png"', '"hf:/nowhere"', '"torch:nn.Linear"'),
    "weights": ('"no_such"', '"/dev/zero"', '"photos/p0.png"', '"photos"'),
    "hyper": ('{ img_size = "x" }', "{ img_size = -32 }", "{ no_such = 1 }", '{ command = "true" }',
              "{ img_size = 32, num_classes = 0 }", "{ num_classes = 1e3 }"),
    "data": ('"gone"', '"/dev/zero"', '"pipe"', '"loop"', '"plan.toml"', '"http://nowhere/x"'),
    "root": ('"gone"', '"/"'),
    "inputs": ('"no_such"', '"series:x"', '["features:*"]', '{ input = "gone" }'),
    "axes": ('{ input = "b q q" }', '{ gone = "b c t" }', '{ input = 1 }'),
    "methods": ('"no_such"', '["gradcam", 1]', '"gradcam,no=1"', '"smoothgrad,n=-1"'),
    "sites": ('"no_such"', "[1]", '"*["', '"fc"'),
    "target": ('"no such"', "6", "-7", '"top:99"', '"label"', "[1, 2]", '"similar:pipe"'),
    "shard": ("0", "-5", '"x"', "1.5"),
    "seed": ("-1", '"x"', "1.5"),
    "limit": ("0", "-3", '"x"'),
    "labels": ('"gone.txt"', '["a"]', '"photos/p0.png"', "[1, 2]", '"pipe"'),
    "size": ("-32", "[32]", "[0, 32]", "[1, 2, 3]", "99999999", '"x"', "7"),
    "resize": ("-1", "[5, 5, 5]", "99999999", '"x"'),
    "interpolation": ('"no_such"', "3"),
    "mean": ("[]", "[1, 2]", '"x"', "[nan, 0, 0]"),
    "std": ("0", "[0, 1, 1]", "-1", "nan"),
    "device": ('"cuda:99"', '"banana"', '"meta"'),
    "dtype": ('"int8"', '"no_such"', '"float16"', '"bfloat16"'),
    "batch": ("0", "-2", '"x"'),
    "workers": ("-1", "100000", '"x"'),
    "engine": ('"spark"', '""'),
    "address": ('"nowhere:1"', '"auto"'),
}  # fmt: skip
_FILES = (
    b"", b"\xef\xbb\xbfmodel = 'resnet18'", b"model = 'caf\xe9'", b"\x00" * 50, b"model = ",
    b"a = " + b"[" * 20_000, b"a = 1\na = 2", b"[[model]]\nx = 1", b"\xff\xfem\x00", b"no_such = 1",
    b"Model = 'resnet18'", b"[run]\nmodel = 'resnet18'", b"model = 'resnet18'\r\ndata = 'photos'\r",
)  # fmt: skip
_CODE = b"""model = "os:system"
data = "photos"
[hyper]
command = "touch ran"
"""


def trial(count: int, seed: int) -> tuple[int, int]:
    """Run `count` plans; how many were, and how many were answered as they should be."""
    draw, home, held = random.Random(seed), here(), 0
    (home / "loop").symlink_to("loop")
    os.mkfifo(home / "pipe")
    chosen = [_CODE, *_FILES, *draw.sample(_changed(), count)][:count]
    for n, plan in enumerate(chosen):
        fault = _fault(plan, f"run{n}")
        held += not fault
        if fault:
            print(f"plans, {plan[-90:]!r}: {fault}")
    return len(chosen), held


def _changed() -> list[bytes]:
    """The good plan with one key changed, for each key and each value that it should not have."""
    cases = [(name, value) for name, values in _VALUES.items() for value in (*values, *_NOTHING)]
    return [_written({**_PLAN, name: value}, last=name) for name, value in cases]


def _written(keys: dict[str, str], last: str) -> bytes:
    """A plan as TOML; what was changed stands last."""
    order = sorted(keys, key=lambda name: name == last)
    return "".join(f"{name} = {keys[name]}\n" for name in order).encode()


def _fault(plan: bytes, out: str) -> str:
    """What is wrong with how a plan was answered; "" where nothing is."""
    Path("plan.toml").write_bytes(plan)
    said = answer(("run", "plan.toml", "--out", out), seconds=30)
    if Path("ran").exists():
        Path("ran").unlink()
        return "its code was run"
    if said.fault:
        return said.fault
    made = Run(Path(out)).maps() if said.code == 0 else ()
    if not all(bool(torch.isfinite(m.values).all()) for m in made):
        return "maps that are no numbers, without a word"
    return ""

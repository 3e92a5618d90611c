"""Every kernel passes Triton's front end, which refuses what the interpreter lets pass."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST = 40  # arguments of one kernel


def jit_functions() -> dict[str, ast.FunctionDef]:
    """By module and name, all functions under @triton.jit."""
    functions = {}
    for path in sorted((ROOT / "kernels").rglob("triton_*.py")):
        module = path.relative_to(ROOT / "kernels").with_suffix("").as_posix().replace("/", ".")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and any(
                ast.unparse(decorator) == "triton.jit" for decorator in node.decorator_list
            ):
                functions[f"{module} {node.name}"] = node
    return functions


def test_no_kernel_takes_more_arguments_than_a_reader_can_hold():
    counts = {name: len(node.args.args) for name, node in jit_functions().items()}
    assert len(counts) > 40
    assert {name: count for name, count in counts.items() if count > MOST} == {}


def test_every_kernel_is_lowered():
    pytest.importorskip("triton.backends.nvidia")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_ALWAYS_COMPILE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    script = ROOT / "tests" / "support" / "lower_kernels.py"
    run = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    launched = set(run.stdout.splitlines())
    called = {
        name.id if isinstance(name, ast.Name) else name.attr
        for node in jit_functions().values()
        for part in ast.walk(node)
        if isinstance(part, ast.Call) and isinstance(name := part.func, (ast.Name, ast.Attribute))
    }
    entries = {name for name in jit_functions() if name.rpartition(" ")[2] not in called}
    assert entries <= launched, entries - launched

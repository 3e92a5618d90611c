"""The command line in a child process: what it answered, and whether that is fit for a person."""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from small_runs import photos

from limelight.cli.app import main

SMALL = ("--weights", "none", "--set", "img_size=32", "--set", "num_classes=6")
_MEMORY = 24 << 30
_BESIDES = ("limelight: note: ", "limelight: caution: ")
_FOREIGN = re.compile(r"Traceback|unexpected|\x1b|Error\(")


@dataclass(frozen=True)
class Answer:
    """A command's exit code and what it printed; the code is None where it took too long."""

    code: int | None
    out: str
    err: str

    @property
    def fault(self) -> str:
        """What is wrong with the answer; "" where it is a result, or one sentence and exit 2."""
        lines = self.err.splitlines()
        if self.code not in (0, 2, 3):
            return f"exit {self.code}: {self.err[-400:]}"
        if _FOREIGN.search(self.out + self.err):
            return f"foreign words: {self.err[-400:]}"
        if not all(line.startswith("limelight: ") for line in lines):
            return f"lines of somebody else: {self.err[-400:]}"
        told = [
            line for line in lines if not line.startswith(("limelight: note", "limelight: caut"))
        ]
        if self.code == 2 and len(told) != 1:
            return f"{len(told)} sentences: {self.err[-400:]}"
        return ""


def here() -> Path:
    """A new folder with six photos in `photos`, entered; children start in it."""
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    os.chdir(folder)
    Path("photos").mkdir()
    photos(Path("photos"))
    return folder


def start(words: Sequence[str], told: Path) -> int:
    """Run a command in a child; its number. What it prints goes to `told`.out and `told`.err."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        for number, end in ((1, ".out"), (2, ".err")):
            file = os.open(f"{told}{end}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
        code = main(list(words))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def end(child: int, told: Path, *, seconds: float = 60) -> Answer:
    """Wait for a child, and kill it when it takes too long."""
    until, status = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.005)
    else:
        kill(child)
        return Answer(None, *_printed(told))
    return Answer(os.waitstatus_to_exitcode(status), *_printed(told))


def _printed(told: Path) -> tuple[str, str]:
    out, err = (Path(f"{told}{end}").read_text(errors="replace") for end in (".out", ".err"))
    return out, err


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def answer(words: Sequence[str], *, seconds: float = 60) -> Answer:
    """Run a command in a child to its end."""
    told = Path("told")
    return end(start(words, told), told, seconds=seconds)


def contents(folder: Path) -> dict[str, bytes]:
    """The parts of a run as bytes, by name."""
    return {path.name: path.read_bytes() for path in sorted((folder / "maps").glob("part-*"))}

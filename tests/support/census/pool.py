"""Workers that are killed when a model takes too long or too much memory."""

from __future__ import annotations

import os
import random
import selectors
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, Queue
from threading import Lock, Thread

import psutil

from .row import Row

SECONDS = 20.0  # of computing, for one model
MEMORY = 3_000_000_000
TURNS = 40  # models a process, as memory is not all given back


class Worker:
    """One process; it answers with rows, the last one counts."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "census", "--worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environment,
        )
        self.known = psutil.Process(self.process.pid)
        self.turns = 0
        self._text = b""
        self._lines: list[str] = []
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.process.stdout, selectors.EVENT_READ)
        self._wait_for("ready", time.monotonic() + 300)

    def examine(self, key: str) -> tuple[Row, bool]:
        """What is found out about an architecture, and whether the process lives on."""
        assert self.process.stdin is not None
        source, _, name = key.partition(" ")
        row = Row(source, "", name)
        start, wall = self._computed(), time.monotonic()
        self.process.stdin.write(f"{key}\n".encode())
        self.turns += 1
        while True:
            for line in self._read(0.2):
                if line == "next":
                    return row, self.turns < TURNS
                row = Row.of(line)
            reason = self._over(start, wall)
            if reason:
                row.reason = f"{reason} after {row.stage!r}"
                row.seconds = self._computed() - start
                return row, False

    def _over(self, start: float, wall: float) -> str:
        if self.process.poll() is not None:
            return f"the process ended with {self.process.returncode}"
        if self._computed() - start > SECONDS:
            return f"stopped: more than {SECONDS:.0f} s"
        if time.monotonic() - wall > 12 * SECONDS:
            return "stopped: it waited for something"
        try:
            if self.known.memory_info().rss > MEMORY:
                return f"stopped: more than {MEMORY / 1e9:.0f} GB"
        except psutil.NoSuchProcess:
            return "the process is gone"
        return ""

    def _computed(self) -> float:
        try:
            spent = self.known.cpu_times()
        except psutil.NoSuchProcess:
            return 0.0
        return float(spent.user + spent.system)

    def _read(self, wait: float) -> list[str]:
        if not self._selector.select(wait):
            return []
        assert self.process.stdout is not None
        self._text += self.process.stdout.read() or b""
        *lines, self._text = self._text.split(b"\n")
        return [line.decode() for line in lines]

    def _wait_for(self, word: str, until: float) -> None:
        while word not in self._read(0.5):
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError("a worker of the census did not start")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._selector.close()


def run(keys: Sequence[str], log: Path, processes: int) -> list[Row]:
    """Rows of all architectures, in order; those that the log holds are not examined again."""
    rows = {row.key: row for row in _logged(log)}
    waiting: Queue[str] = Queue()
    for key in random.Random(0).sample(keys, len(keys)):  # mixed: what is done stands for the rest
        if key not in rows:
            waiting.put(key)
    lock = Lock()

    def serve() -> None:
        worker: Worker | None = None
        while True:
            try:
                key = waiting.get_nowait()
            except Empty:
                break
            worker = worker or Worker()
            row, alive = worker.examine(key)
            if not alive:
                worker.close()
                worker = None
            with lock, log.open("a") as file:
                rows[key] = row
                file.write(row.line() + "\n")
                print(
                    f"{len(rows)}/{len(keys)} {key}: {row.stage} {row.seconds:.1f} s", *row.faults
                )
        if worker is not None:
            worker.close()

    threads = [Thread(target=serve) for _ in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [rows[key] for key in keys]


def _logged(log: Path) -> list[Row]:
    return [Row.of(line) for line in log.read_text().splitlines()] if log.exists() else []

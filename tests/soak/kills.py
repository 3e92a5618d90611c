"""SIGKILL at random moments of `limelight run`: resumed, it is what an undisturbed run writes."""

from __future__ import annotations

import random
import time
from pathlib import Path

from soak_commands import SMALL, Answer, contents, end, here, kill, start

_WORDS = ("run", "resnet18", "photos", *SMALL, "-s", "layer2", "-s", "layer3", "--shard", "1")
_METHODS = ("gradcam", "normgrad")


def trial(count: int, seed: int) -> tuple[int, int]:
    """Kill `count` runs; how many were killed, and how many of them lost and repeated nothing.

    A third each is alone in its folder, beside another process of the same run, and against one of
    another run, of which one alone may have the folder.
    """
    draw, home, held = random.Random(seed), here(), 0
    whole, seconds = {}, 0.0
    for method in _METHODS:
        began = time.monotonic()
        _finish(home / f"{method}-0", method)
        seconds, whole[method] = time.monotonic() - began, contents(home / f"{method}-0")
    kinds = (_alone, _beside, _against)
    for n in range(count):
        fault = kinds[n % len(kinds)](
            home / f"run{n}-{draw.randrange(2)}", draw.uniform(0.3 * seconds, seconds), whole
        )
        held += not fault
        if fault:
            print(f"kills, {kinds[n % len(kinds)].__name__.strip('_')} {n}: {fault}")
    return count, held


def _started(folder: Path, method: str, name: str) -> int:
    workers = folder.name[-1]
    words = (*_WORDS, "--out", str(folder), "-m", method, "--workers", workers)
    return start(words, folder.with_name(name))


def _finish(folder: Path, method: str) -> Answer:
    return end(_started(folder, method, "last"), folder.with_name("last"))


def _alone(folder: Path, after: float, whole: dict[str, dict[str, bytes]]) -> str:
    child = _started(folder, "gradcam", "first")
    time.sleep(after)
    kill(child)
    early = _times(folder)
    return _resumed(folder, "gradcam", early, whole)


def _beside(folder: Path, after: float, whole: dict[str, dict[str, bytes]]) -> str:
    """Two processes of one run; one is killed, the other comes to its end."""
    killed = _started(folder, "gradcam", "first")
    other = _started(folder, "gradcam", "other")
    time.sleep(after)
    kill(killed)
    answer = end(other, folder.with_name("other"))
    if answer.fault or answer.code != 0:
        return f"the other process: exit {answer.code}, {answer.err[-300:]}"
    return _resumed(folder, "gradcam", _times(folder), whole)


def _against(folder: Path, after: float, whole: dict[str, dict[str, bytes]]) -> str:
    """Two processes of two runs; the one that has the folder is killed and resumed."""
    children = [_started(folder, method, method) for method in _METHODS]
    time.sleep(after)
    kill(children[0])
    second = end(children[1], folder.with_name(_METHODS[1]))
    first = _finish(folder, _METHODS[0])
    won = [method for method, a in zip(_METHODS, (first, second), strict=True) if a.code == 0]
    faults = [a.fault for a in (first, second) if a.fault]
    if faults or len(won) != 1:
        return f"{len(won)} runs have the folder; {'; '.join(faults)}"
    return _resumed(folder, won[0], _times(folder), whole)


def _times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "maps").glob("part-*")}


def _resumed(
    folder: Path, method: str, early: dict[str, int], whole: dict[str, dict[str, bytes]]
) -> str:
    """What is wrong with a folder when its run has come to its end; "" where nothing is."""
    answer = _finish(folder, method)
    if answer.fault or answer.code != 0:
        return f"resumed: exit {answer.code}, {answer.err[-300:]}"
    late = _times(folder)
    if again := [name for name, at in early.items() if late.get(name) != at]:
        return f"computed twice: {', '.join(again)}"
    found = contents(folder)
    wrong = [name for name, raw in whole[method].items() if found.get(name) != raw]
    if wrong or len(found) != len(whole[method]):
        return f"lost, changed or not the run's: {', '.join(wrong)} of {len(found)} parts"
    return ""

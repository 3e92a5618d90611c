"""Damaged folders of runs: what is broken is named, nothing wrong is read, a repair heals."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from soak_commands import SMALL, Answer, answer, contents, here

_RUN = ("run", "resnet18", "photos", *SMALL, "-s", "layer1", "--shard", "2", "--workers", "0")
_GOOD, _OTHER = "gradcam", "normgrad"


@dataclass(frozen=True)
class Damaged:
    """A folder of a run to be damaged, a run of another plan beside it, and what to draw from."""

    folder: Path
    other: Path
    draw: random.Random

    def part(self) -> Path:
        return self.folder / "maps" / f"part-{self.draw.randrange(3):05d}.parquet"


def trial(count: int, seed: int) -> tuple[int, int]:
    """Damage `count` folders; how many were, and how many were refused by name and healed."""
    draw, home, held = random.Random(seed), here(), 0
    whole, other = (_made(home / method, method) for method in (_GOOD, _OTHER))
    score = _scored(whole)
    kinds = [*_DAMAGES]
    for n in range(count):
        damage = kinds[n % len(kinds)]
        folder = Path(shutil.copytree(whole, home / f"run{n}"))
        damage(Damaged(folder, other, draw))
        fault = _fault(folder, whole, score)
        held += not fault
        if fault:
            print(f"folders, {damage.__name__.strip('_')}: {fault}")
    return count, held


def _made(folder: Path, method: str) -> Path:
    """A run that came to its end, with scores."""
    for words in (_words(folder, method), ("score", str(folder), "--metric", "sparseness")):
        made = answer(words)
        if made.code != 0:
            raise RuntimeError(made.err)
    return folder


def _words(folder: Path, method: str, *more: str) -> tuple[str, ...]:
    return (*_RUN, "--out", str(folder), "-m", method, *more)


def _scored(folder: Path) -> str:
    """The table of scores of a folder, without the line that names it."""
    told = answer(("score", str(folder), "--metric", "complexity"))
    return told.out.rpartition(str(folder))[0] if told.code == 0 else told.err


def _fault(folder: Path, whole: Path, score: str) -> str:
    """What is wrong with the answers about a damaged folder; "" where nothing is."""
    is_good = contents_of(folder) == contents(whole)
    told = {
        "score": answer(("score", str(folder), "--metric", "complexity")),
        "report": answer(("report", str(folder), "-o", str(folder.with_suffix(".html")))),
        "run": answer(_words(folder, _GOOD)),
    }
    for name, said in told.items():
        if fault := said.fault or _passed_over(said, folder, is_good or name == "run"):
            return f"{name}: {fault}"
    if told["score"].code == 0 and told["score"].out.rpartition(str(folder))[0] != score:
        return "other scores than those of the whole run, without a word"
    if told["run"].code == 0 and contents_of(folder) != contents(whole):
        return "run again, it was content with parts that are not its own"
    healed = answer(_words(folder, _GOOD, "--repair"))
    if healed.code != 0 or contents(folder) != contents(whole):
        return f"not healed: {healed.err[-300:]}"
    return "" if _scored(folder) == score else "healed, it has other scores"


def _passed_over(said: Answer, folder: Path, is_good: bool) -> str:
    if said.code == 2:
        return "" if folder.name in said.err else f"names no file: {said.err}"
    return "" if is_good else "took what is broken for whole"


def contents_of(folder: Path) -> dict[str, bytes]:
    """The parts of a folder that may hold anything."""
    try:
        return {p.name: p.read_bytes() if p.is_file() else b"" for p in _parts(folder)}
    except OSError:
        return {}


def _parts(folder: Path) -> list[Path]:
    return sorted((folder / "maps").glob("part-*"))


def _flips(d: Damaged) -> None:
    part = d.part()
    raw = bytearray(part.read_bytes())
    for _ in range(2):
        raw[d.draw.randrange(len(raw))] ^= d.draw.randrange(1, 256)
    part.write_bytes(raw)


def _cut(d: Damaged) -> None:
    part = d.part()
    raw = part.read_bytes()
    part.write_bytes(raw[: d.draw.randrange(len(raw))])


def _grown(d: Damaged) -> None:
    part = d.part()
    part.write_bytes(part.read_bytes() + d.draw.randbytes(40))


def _zeros(d: Damaged) -> None:
    part = d.part()
    raw = bytearray(part.read_bytes())
    at = d.draw.randrange(len(raw) - 16)
    raw[at : at + 16] = bytes(16) if any(raw[at : at + 16]) else b"\x01" * 16
    part.write_bytes(raw)


def _noise(d: Damaged) -> None:
    d.part().write_bytes(d.draw.randbytes(5000))


def _swapped(d: Damaged) -> None:
    one, two = (d.folder / "maps" / f"part-0000{n}.parquet" for n in d.draw.sample(range(3), 2))
    one_raw, two_raw = one.read_bytes(), two.read_bytes()
    one.write_bytes(two_raw)
    two.write_bytes(one_raw)


def _foreign(d: Damaged) -> None:
    part = d.part()
    part.write_bytes((d.other / "maps" / part.name).read_bytes())


def _too_many(d: Damaged) -> None:
    name = d.draw.choice(["part-00009.parquet", "part-1.parquet", "part-copy.parquet"])
    (d.folder / "maps" / name).write_bytes(d.part().read_bytes())


def _a_folder(d: Damaged) -> None:
    part = d.part()
    part.unlink()
    part.mkdir()


def _a_pipe(d: Damaged) -> None:
    part = d.part()
    part.unlink()
    os.mkfifo(part)


def _a_link_to_nothing(d: Damaged) -> None:
    part = d.part()
    part.unlink()
    part.symlink_to("gone")


def _plan_removed(d: Damaged) -> None:
    (d.folder / "plan.json").unlink()


def _plan_of_another(d: Damaged) -> None:
    shutil.copy(d.other / "plan.json", d.folder / "plan.json")


def _plan_removed_and_parts_of_another(d: Damaged) -> None:
    _plan_removed(d)
    _foreign(d)


def _plan_changed(d: Damaged) -> None:
    path = d.folder / "plan.json"
    raw = json.loads(path.read_text())
    name = d.draw.choice([*raw])
    raw[name] = d.draw.choice([None, -1, 10**30, "x", [], {}, [None], 1.5])
    path.write_text(json.dumps(raw))


def _plan_cut(d: Damaged) -> None:
    path = d.folder / "plan.json"
    text = path.read_text()
    path.write_text(text[: d.draw.randrange(len(text))])


def _plan_of_noise(d: Damaged) -> None:
    texts = [b"", b"[]", b"null", b"[" * 100_000, d.draw.randbytes(300), b"\xff\xfe{}", b"NaN"]
    (d.folder / "plan.json").write_bytes(d.draw.choice(texts))


def _plan_a_pipe(d: Damaged) -> None:
    (d.folder / "plan.json").unlink()
    os.mkfifo(d.folder / "plan.json")


def _scores_damaged(d: Damaged) -> None:
    path = d.folder / "scores.parquet"
    raw = bytearray(path.read_bytes())
    raw[d.draw.randrange(len(raw))] ^= d.draw.randrange(1, 256)
    path.write_bytes(d.draw.choice([bytes(raw), bytes(raw[:200]), b"", d.part().read_bytes()]))


def _left_over(d: Damaged) -> None:
    (d.folder / "maps" / ".part-00001.parquet.77.tmp").write_bytes(d.draw.randbytes(100))
    (d.folder / "notes.txt").write_text("mine")


_DAMAGES: tuple[Callable[[Damaged], None], ...] = (
    _flips, _cut, _grown, _zeros, _noise, _swapped, _foreign, _too_many, _a_folder, _a_pipe,
    _a_link_to_nothing, _plan_removed, _plan_of_another, _plan_removed_and_parts_of_another,
    _plan_changed, _plan_cut, _plan_of_noise, _plan_a_pipe, _scores_damaged, _left_over,
)  # fmt: skip

"""Hostile weight files: no code runs, no number is lost, and what does not fit is one sentence."""

from __future__ import annotations

import os
import pickle
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from soak_verdict import fault
from torch import Tensor

import limelight as ll

State = dict[str, Tensor]
Make = Callable[[State, Path, random.Random], None]
_OPTIONS: dict[str, Any] = {"num_classes": 6, "img_size": 32}


def trial(count: int, seed: int) -> tuple[int, int]:
    """Load `count` files into a ResNet-18; how many were tried, and how many held."""
    draw, held, kinds = random.Random(seed), 0, [*_KINDS]
    state = ll.load("resnet18", weights=None, **_OPTIONS).state_dict()
    with tempfile.TemporaryDirectory() as home:
        witness = Path(home) / "code ran"
        for n in range(count):
            make = kinds[n % len(kinds)]
            path = Path(home) / f"{n:03d}{'.safetensors' if make in _SAFE else '.pth'}"
            os.environ[_WITNESS] = str(witness)
            make({name: x.clone() for name, x in state.items()}, path, draw)
            wrong = fault(lambda p=path: _loaded(p)) or witness.exists() * "code ran"
            witness.unlink(missing_ok=True)
            held += not wrong
            if wrong:
                print(f"weights, {path.name} {make.__name__.strip('_')}: {wrong}")
    return count, held


_WITNESS = "LIMELIGHT_SOAK_WITNESS"


def _loaded(path: Path) -> str:
    """What is wrong with a net that took the file: it must hold the numbers of the file."""
    net = ll.load("resnet18", weights=path, **_OPTIONS)
    stored = _numbers(path)
    for name, x in net.state_dict().items():
        if name in stored and not torch.equal(x.nan_to_num(), stored[name].to(x).nan_to_num()):
            return f"{name} is not what the file holds"
    maps = ll.explain(net, [torch.rand(3, 32, 32)], "gradcam", sites="layer1").maps
    bad = [m for m in maps if not m.values.isfinite().all() and not m.about.cautions]
    return "a map that is not finite says nothing" if bad or not len(maps) else ""


def _numbers(path: Path) -> State:
    from limelight.models.weights import read_state

    return read_state(path)


class _Code:
    """Runs when it is unpickled by a reader that trusts."""

    def __init__(self, call: str) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        import builtins

        place = os.environ[_WITNESS]
        if self.call == "system":
            return os.system, (f"touch '{place}'",)
        if self.call == "open":
            return open, (place, "w")
        return builtins.exec, (f"open({place!r}, 'w')",)


def _code(state: State, path: Path, draw: random.Random) -> None:
    bad = _Code(draw.choice(("system", "open", "exec")))
    whole: Any = draw.choice((bad, {**state, "extra": bad}, {"state_dict": state, "hook": [bad]}))
    if draw.random() < 0.5:
        torch.save(whole, path)
    else:
        path.write_bytes(pickle.dumps(whole))


def _whole(state: State, path: Path, draw: random.Random) -> None:
    torch.save(draw.choice((state, {"state_dict": state}, {"module." + k: v for k, v
               in state.items()})), path)  # fmt: skip


def _not_finite(state: State, path: Path, draw: random.Random) -> None:
    name = draw.choice([k for k, v in state.items() if v.is_floating_point()])
    state[name].view(-1)[0] = draw.choice((float("nan"), float("inf"), -float("inf")))
    torch.save(state, path)


def _integers(state: State, path: Path, draw: random.Random) -> None:
    kind = draw.choice((torch.int8, torch.uint8, torch.int32, torch.bool))
    torch.save({name: x.to(kind) for name, x in state.items()}, path)


def _shaped(state: State, path: Path, draw: random.Random) -> None:
    name = draw.choice([k for k, v in state.items() if v.ndim])
    state[name] = draw.choice((state[name][:0], state[name][None], torch.zeros(3)))
    torch.save(state, path)


def _named(state: State, path: Path, draw: random.Random) -> None:
    cut = draw.randrange(1, len(state))
    torch.save({f"other.{k}" if n < cut else k: v for n, (k, v) in enumerate(state.items())}, path)


def _lacking(state: State, path: Path, draw: random.Random) -> None:
    for name in draw.sample(sorted(state), draw.randrange(1, len(state))):
        del state[name]
    torch.save(state, path)


def _odd(state: State, path: Path, draw: random.Random) -> None:
    odd: list[Any] = [{}, [], None, 3, "text", {"epoch": 3}, {1: torch.ones(2)}, torch.ones(3),
                      {"state_dict": {"a": 1}}, {**state, "fc.bias": "x"}]  # fmt: skip
    torch.save(draw.choice(odd), path)


def _cut(state: State, path: Path, draw: random.Random) -> None:
    torch.save(state, path)
    data = path.read_bytes()
    path.write_bytes(data[: draw.randrange(len(data))])


def _flipped(state: State, path: Path, draw: random.Random) -> None:
    save_file(state, path)
    data = bytearray(path.read_bytes())
    for _ in range(3):
        data[draw.randrange(400)] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def _header(state: State, path: Path, draw: random.Random) -> None:
    sizes = (0, 8, 2**40, 2**63)
    path.write_bytes(draw.choice(sizes).to_bytes(8, "little") + b'{"a": ' + draw.randbytes(40))


def _half(state: State, path: Path, draw: random.Random) -> None:
    kind = draw.choice((torch.float16, torch.bfloat16, torch.float64))
    save_file({k: v.to(kind) if v.is_floating_point() else v for k, v in state.items()}, path)


def _noise(state: State, path: Path, draw: random.Random) -> None:
    path.write_bytes(draw.randbytes(draw.choice((0, 1, 7, 4000))))


_SAFE: tuple[Make, ...] = (_flipped, _header, _half)
_KINDS: tuple[Make, ...] = (_code, _whole, _not_finite, _integers, _shaped, _named, _lacking, _odd,
                            _cut, _flipped, _header, _half, _noise, _code, _odd)  # fmt: skip

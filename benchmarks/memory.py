"""Peak memory of all maps beside one pass: a fresh process each, resident size each millisecond."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from measure import Row

# Without these, freed memory stays resident and hides the peaks.
TRIM = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
MIB = 1 << 20
PAGE = os.sysconf("SC_PAGE_SIZE")


def rows(name: str) -> Iterator[Row]:
    """The peak of a network's maps, held to one pass and the activations of the sites."""
    if not Path("/proc/self/statm").exists():
        return
    found = {variant: peak(name, variant) for variant in ("one_pass", "ours", "peers_at_best")}
    (single, sites), (mine, _), (peers, _) = found.values()
    limit = single + sites
    what = f"{name}: peak memory"
    yield Row(f"{what} of one pass", f"{single / MIB:.1f} MiB", "for comparison", True)
    yield Row(
        f"{what}, peers, all layers in one call", f"{peers / MIB:.1f} MiB", "for comparison", True
    )
    yield Row(
        f"{what} of limelight",
        f"{mine / MIB:.1f} MiB",
        f"at most {limit / MIB:.1f} MiB (one pass and the sites' {sites / MIB:.1f})",
        mine <= limit,
    )


def peak(name: str, variant: str, home: str = "networks") -> tuple[int, int]:
    """Bytes above idle at the peak of a function of module `home`; bytes of the sites' values."""
    return peak_of([sys.executable, __file__, name, variant, home])


def peak_of(command: list[str]) -> tuple[int, int]:
    """Bytes above idle at the peak of a process, and the number it prints before it waits."""
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, **TRIM},
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    sites = int(child.stdout.readline())
    idle = most = _resident(child.pid)
    print(file=child.stdin, flush=True)
    while child.poll() is None:
        most = max(most, _resident(child.pid))
        time.sleep(0.001)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}")
    return most - idle, sites


def _resident(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE
    except (FileNotFoundError, IndexError, ProcessLookupError):
        return 0


def child(name: str, variant: str, home: str) -> None:
    """Warm up, on a small input where that runs, say how large the sites are, wait, run once."""
    from dataclasses import replace
    from importlib import import_module

    import networks
    import torch

    networks.grad_cam()
    case = getattr(networks.Case, name)()
    work = getattr(import_module(home), variant)
    if variant == "one_pass":
        case.net.requires_grad_(False)
    # zennit's pooling wants the full size; the rest of what it keeps is trimmed.
    small = case.x[:, :, ::4, ::4] if home == "networks" else case.x
    work(replace(case, x=small))
    print(_site_bytes(case.net, case.layers, case.x), flush=True)
    sys.stdin.readline()
    with torch.enable_grad():
        kept = work(case)
    del kept


def _site_bytes(net: object, layers: object, x: object) -> int:
    import torch

    total = 0

    def add(module: object, args: object, out: torch.Tensor) -> None:
        nonlocal total
        total += out.nbytes

    hooks = [m.register_forward_hook(add) for m in layers]  # type: ignore[attr-defined]
    with torch.no_grad():
        net(x)  # type: ignore[operator]
    for hook in hooks:
        hook.remove()
    return total


if __name__ == "__main__":
    child(*sys.argv[1:])

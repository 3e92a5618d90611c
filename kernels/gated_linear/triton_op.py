"""Gated linear attention by chunks, on Triton: both ops, tiles, and the order of launches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..kernel import interpreted
from . import triton_chunks as chunks

CHUNK, PART, RUN = 64, chunks.PART.value, 128  # tokens of one program
CHANNELS, VALUES = 32, 64
STAGES = 2  # more need more shared memory than most devices have
MOST = 2**31 - 1  # programs on one axis, and numbers in one state


@dataclass(frozen=True)
class Call:
    """The arguments of either op as kernels take them; a gate that is not there is the other."""

    q: Tensor
    k: Tensor
    v: Tensor
    gate: Tensor
    gate_back: Tensor
    ways: int
    factor: float

    @property
    def rows(self) -> int:
        return self.q.shape[0] * self.q.shape[1]

    @property
    def chunk(self) -> int:
        return min(CHUNK, padded(self.q.shape[2]))

    @property
    def chunks(self) -> int:
        return triton.cdiv(self.q.shape[2], self.chunk)

    @property
    def scans(self) -> int:
        return 2 if self.ways == 3 else 1

    @property
    def dots(self) -> tuple[Any, str]:
        """The type that dots of tokens take; the interpreter computes in no bfloat16."""
        dtype = self.q.dtype
        tf32 = torch.backends.cuda.matmul.allow_tf32 and not interpreted()
        known = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
        if dtype == torch.bfloat16 and interpreted():
            return tl.float32, "ieee"
        return known.get(dtype, tl.float32), "tf32" if tf32 else "ieee"

    @property
    def warps(self) -> int:
        """Dots in full float32 run on no tensor core: their tiles need more registers."""
        return 8 if self.q.dtype == torch.float32 else 4

    @property
    def state_dots(self) -> tuple[Any, str]:
        """As above with a state, a sum over all tokens, that float16 may not hold."""
        kind, precision = self.dots
        if kind == tl.float16:
            return tl.float32, "ieee" if interpreted() else "tf32"
        return kind, precision


def padded(size: int) -> int:
    """The next power of two that a dot takes."""
    return max(16, triton.next_power_of_2(size))


def can_run(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, gate_back: Tensor | None = None, **_: Any
) -> str | None:
    """None where the kernels take the call, else the reason against them."""
    gates = [gate] if gate_back is None else [gate, gate_back]
    if any(x.ndim != 4 for x in (q, k, v, *gates)):
        return "an argument has not four axes"
    if any(x.shape != q.shape for x in (k, *gates)) or v.shape[:3] != q.shape[:3]:
        return "shapes do not fit each other"
    if len({q.dtype, k.dtype, v.dtype}) > 1:
        return "q, k and v are of several dtypes"
    if q.numel() == 0 or v.numel() == 0:
        return "there is nothing to compute"
    parts = triton.cdiv(q.shape[2], CHUNK) * CHUNK // PART
    if q.shape[0] * q.shape[1] * parts > MOST or q.shape[3] * v.shape[3] > MOST:
        return f"there are more than {MOST} parts or numbers in a state"
    return None


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    gate_back: Tensor | None = None,
    *,
    scale: float | None = None,
    reverse: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The result; states and scores are formed again in the backward."""
    call = _call(q, k, v, gate, gate_back, scale, reverse)
    states = _scanned(call, call.k, call.v, slope=False)
    return _read(call, call.q, call.v, _scored(call), states, slope=False), ()


def backward(
    g: Tensor,
    out: Tensor,
    saved: tuple[Tensor, ...],
    needs: set[str],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    gate_back: Tensor | None = None,
    *,
    scale: float | None = None,
    reverse: bool = False,
) -> dict[str, Tensor]:
    """Gradients by the opposite scan: of v as the result is formed, of a gate from those of q, k.

    A gate's gradient is the sum of q grad_q - k grad_k over the rest of the scan.
    """
    call, g = _call(q, k, v, gate, gate_back, scale, reverse), _rows(g)
    left = _scanned(call, call.q, g, slope=True)
    found: dict[str, Tensor] = {}
    if "v" in needs:
        found["v"] = _read(call, call.k, g, _scored(call), left, slope=True)
    if needs - {"v"}:
        found["q"], found["k"], turns = _q_and_k(call, g, left)
        names = ("gate",) if gate_back is None else ("gate", "gate_back")
        for place, name in enumerate(names):
            if name in needs:
                like = gate if name == "gate" else call.gate_back
                back = call.ways == 2 or place == 1
                found[name] = _gates(turns[place], like, back=back)
    return {name: x for name, x in found.items() if name in needs}


def _call(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    gate_back: Tensor | None,
    scale: float | None,
    reverse: bool,
) -> Call:
    ways = 3 if gate_back is not None else 2 if reverse else 1
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    q, k, v, gate = (_rows(x) for x in (q, k, v, gate))
    other = gate if gate_back is None else _rows(gate_back)
    return Call(q, k, v, gate, other, ways, factor / 2 if ways == 3 else factor)


def _scanned(call: Call, x: Tensor, y: Tensor, *, slope: bool) -> Tensor:
    """`scans b*h chunks d e`: states or their gradients, in float32 but for bfloat16 tokens."""
    n, d, e = *x.shape[2:], y.shape[3]
    kept = torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32
    states = x.new_empty(call.scans, call.rows, call.chunks, d, e, dtype=kept)
    block_d, block_e = min(CHANNELS, padded(d)), min(VALUES, padded(e))
    programs = call.rows * triton.cdiv(d, block_d), triton.cdiv(e, block_e), call.scans
    chunks.states[programs](
        x, y, call.gate, call.gate_back, states,
        *_strides(x, y, call.gate, call.gate_back), x.shape[1], call.rows, n, d, e,
        call.ways, slope, call.chunk, block_d, block_e, *call.dots, num_stages=STAGES,
    )  # fmt: skip
    return states


def _scored(call: Call) -> Tensor:
    """`b*h chunks chunk chunk`: the map inside chunks, scaled, of both scans together."""
    q, k = call.q, call.k
    scores = q.new_empty(call.rows, call.chunks, call.chunk, call.chunk)
    block = min(CHANNELS, padded(q.shape[3]))
    programs = (call.rows * call.chunks * (call.chunk // PART),)
    chunks.scores[programs](
        q, k, call.gate, call.gate_back, scores,
        *_strides(q, k, call.gate, call.gate_back), *q.shape[1:], call.factor,
        call.ways, call.chunk, block, triton.cdiv(q.shape[3], block), *call.dots, num_stages=STAGES,
    )  # fmt: skip
    return scores


def _read(
    call: Call, x: Tensor, y: Tensor, scores: Tensor, states: Tensor, *, slope: bool
) -> Tensor:
    out = _like(call.v)
    n, d, e = *x.shape[2:], y.shape[3]
    block_d, block_e = min(CHANNELS, padded(d)), min(VALUES, padded(e))
    chunks.results[call.rows * call.chunks, triton.cdiv(e, block_e)](
        x, y, call.gate, call.gate_back, scores, states, out,
        *_strides(x, y, call.gate, call.gate_back, out),
        x.shape[1], call.rows, n, d, e, call.factor,
        call.ways, slope, call.chunk, block_d, block_e, triton.cdiv(d, block_d),
        *call.dots, *call.state_dots, num_stages=STAGES, num_warps=call.warps,
    )  # fmt: skip
    return out


def _q_and_k(call: Call, g: Tensor, left: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q and k, and q grad_q - k grad_k of each scan, `scans b*h n d`."""
    q, k, v = call.q, call.k, call.v
    n, d, e = *q.shape[2:], v.shape[3]
    states = _scanned(call, k, v, slope=False)
    slopes = q.new_empty(call.rows, call.chunks, call.chunk, call.chunk, dtype=torch.float32)
    block_d, block_e = min(CHANNELS, padded(d)), min(VALUES, padded(e))
    parts = triton.cdiv(e, block_e)
    chunks.products[(call.rows * call.chunks,)](
        g, v, slopes, *_strides(g, v), q.shape[1], n, e, call.factor,
        call.chunk, block_e, parts, *call.dots, num_stages=STAGES,
    )  # fmt: skip
    out_q, out_k = _like(q), _like(k)
    turns = q.new_empty(call.scans, call.rows, n, d, dtype=torch.float32)
    programs = call.rows * call.chunks * (call.chunk // PART), triton.cdiv(d, block_d)
    chunks.to_q_and_k[programs](
        q, k, v, g, call.gate, call.gate_back, slopes, states, left, out_q, out_k, turns,
        *_strides(q, k, v, g, call.gate, call.gate_back, out_q, out_k),
        q.shape[1], call.rows, n, d, e, call.factor,
        call.ways, call.chunk, block_d, block_e, parts, *call.dots, *call.state_dots,
        num_stages=STAGES, num_warps=call.warps,
    )  # fmt: skip
    return out_q, out_k, turns


def _gates(turns: Tensor, gate: Tensor, *, back: bool) -> Tensor:
    out = _like(gate)
    n, d = gate.shape[2:]
    block_t, block_d = min(RUN, padded(n)), min(CHANNELS, padded(d))
    chunks.to_gate[len(turns), triton.cdiv(d, block_d)](
        turns, out, *_strides(out), gate.shape[1], n, d, back, block_t, block_d
    )
    return out


def _strides(*tensors: Tensor) -> tuple[tuple[int, ...], ...]:
    return tuple(x.stride()[:3] for x in tensors)


def _like(x: Tensor) -> Tensor:
    """Memory for `b h n d` that lies as `b n h d`, as the layers around the op read it."""
    b, h, n, d = x.shape
    return x.new_empty(b, n, h, d).transpose(1, 2)


def _rows(x: Tensor) -> Tensor:
    """The tensor itself where the channels of a token lie next to each other."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()

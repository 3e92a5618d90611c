"""Kernels as the probe sees them: tensor arguments as ports, the heads, the map when read."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...kernels.attention import grouped
from ...kernels.kernel import Mixing
from ..ops import Op
from ..sites import HEAD_PORTS, Site
from ..trace import MapRows, Value
from .attention import HEADS, MAP, differentiable
from .op_mode import OpMode
from .recording import Recording


def mixer(mode: OpMode, op: Op, func: Any, args: Any, kwargs: Any) -> Any:
    """One call of a kernel: its arguments and result are sites `module:q`, `module:gate`, ..."""
    recording, face = mode.recording, func.face
    bound = func.signature.bind(*args, **kwargs)
    bound.apply_defaults()
    call = bound.arguments
    path = recording.frames[-1].path
    number = recording.count(path, "heads")
    for name, x in call.items():
        if isinstance(x, Tensor):
            axes = HEADS if name in HEAD_PORTS and x.ndim == 4 else ""
            call[name] = recording.visit(path, name, number, x, axes)
    if not face.opaque and recording.relevance:
        with mode:  # its relevance is that of the ops it is made of
            out = func.reference(**call)
    else:
        _apart(recording, call)
        out = _edited(recording, func, call, number)
        out = mode.call(op, func, (), call) if out is None else out
    axes = HEADS if out.ndim == 4 and face.values == "v" else ""
    out = recording.visit(path, "heads", number, out, axes)
    if face.values in call:
        differentiable(recording, path, number, face.values, out)
    return out


def _apart(recording: Recording, call: dict[str, Any]) -> None:
    """Give arguments that are one tensor an edge each, so that rules can tell them apart."""
    if not recording.relevance:
        return
    seen: set[tuple[Any, int]] = set()
    for name, x in call.items():
        if isinstance(x, Tensor) and x.grad_fn is not None:
            if (x.grad_fn, x.output_nr) in seen:
                call[name] = x.view_as(x)
                recording.tape.claim([call[name]], {x.grad_fn}, f"{name} in {recording.place}")
            seen.add((x.grad_fn, x.output_nr))


def _edited(recording: Recording, func: Any, call: dict[str, Any], number: int) -> Tensor | None:
    """Offer the map as a lazy site; the heads from an edited map, where somebody edits it."""
    path, face = recording.frames[-1].path, func.face
    request = recording.requests.at(path, "map", number)
    if request is None or face.mixing is None:
        return None
    grids = tuple(call[name] for name in face.pooled)
    if not request.edits:
        site, count = (
            Site(path, "map", number, None, MAP),
            call.get("q", call[face.values]).shape[2],
        )
        recording.lazy(site, _reader(recording, face.mixing, call, path), count, grids)
        return None
    before = {x.grad_fn for x in call.values() if isinstance(x, Tensor) and x.grad_fn is not None}
    attention = face.mixing(slice(None), **call)
    recording.tape.claim([attention], before, f"the map of {recording.place}")
    attention = _visited(recording, path, number, attention, grids)
    values = grouped(call[face.values], attention)
    tokens = values if face.values == "v" else values.flatten(2)[..., None]
    out = (attention @ tokens.to(attention)).to(values.dtype)
    out = out if face.values == "v" else out.reshape(values.shape)
    recording.tape.claim([out], before, f"the heads of {recording.place}")
    return out


def _visited(
    recording: Recording,
    path: str,
    number: int,
    attention: Tensor,
    grids: tuple[tuple[int, int], ...],
) -> Tensor:
    """Edit and capture a whole map, and note how its keys lie."""
    try:
        return recording.visit(path, "map", number, attention, MAP)
    finally:  # a forward that nobody needs further ends there
        edited = recording.trace.values_by_site.get(Site(path, "map", number))
        if edited is not None:
            edited.grids = grids


def _reader(recording: Recording, mixing: Mixing, named: dict[str, Any], path: str) -> MapRows:
    """Hold the arguments; rows of the map are computed from them when they are read."""
    held = {
        name: Value(Site(path, name), x.detach(), None) if isinstance(x, Tensor) else x
        for name, x in named.items()
    }
    recording.guard(x for x in held.values() if isinstance(x, Value))
    return MapRows(mixing, held)

"""Attention as the probe sees it: q, k, v, heads and the map, whichever way a model computes it.

`scaled_dot_product_attention` stays fused: its map is computed from q and k when it is
read. `F.multi_head_attention_forward` is re-expressed from ops, so that its parts are sites. A
written-out softmax(q k') v is recognised by its three ops.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...kernels.attention import grouped
from ..errors import SiteError
from ..ops import Op, multi_head_attention, rows_of_map
from ..sites import Site
from ..trace import MapRows, Value
from .op_mode import OpMode
from .recording import Recording

HEADS = "b h n d"
MAP = "b h q k"
_SDPA = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
_MHA = inspect.signature(F.multi_head_attention_forward)


def mixing(q: Tensor, k: Tensor, options: dict[str, Any], rows: slice = slice(None)) -> Tensor:
    """Rows of the map `b h q k` of a fused attention call; the whole one in the call's precision.

    Exact for masks, causal order, scale and grouped heads alike.
    """
    attention = rows_of_map(q, k, options, rows)
    return attention.to(k.dtype) if rows == slice(None) else attention


def fused_attention(mode: OpMode, op: Op, func: Any, args: Any, kwargs: Any) -> Any:
    """Show q, k, v, heads and the lazy map of `scaled_dot_product_attention`."""
    recording = mode.recording
    frame = recording.frames[-1]
    if not frame.heads:
        return mode.call(op, func, args, kwargs)
    call = dict(zip(_SDPA, args, strict=False)) | kwargs
    number = recording.count(frame.path, "heads")
    axes = HEADS if call["query"].ndim == 4 else ""
    for name, port in (("query", "q"), ("key", "k"), ("value", "v")):
        call[name] = recording.visit(frame.path, port, number, call[name], axes)
    out = _map(recording, call, number)
    if out is None:
        out = mode.call(op, func, (), call)
    out = recording.visit(frame.path, "heads", number, out, axes)
    differentiable(recording, frame.path, number, "v", call["query"])
    return out


def _map(recording: Recording, call: dict[str, Any], number: int) -> Tensor | None:
    """Offer the map as a lazy site; when somebody edits it, compute the heads from the edit."""
    path = recording.frames[-1].path
    request = recording.requests.at(path, "map", number)
    if request is None:
        return None
    if request.edits:
        return _edited(recording, call, number)
    mask = call.get("attn_mask")
    given = {"q": call["query"], "k": call["key"]}
    if mask is not None:
        given["mask" if mask.dtype == torch.bool else "bias"] = mask
    held = {n: Value(Site(path, n, number), x.detach(), None) for n, x in given.items()}
    options = {n: x for n, x in _options(call).items() if n != "attn_mask"}
    recording.guard(held.values())

    def rows(
        span: slice, q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        return mixing(q, k, {**options, "attn_mask": bias if mask is None else mask}, span)

    reader = MapRows(rows, held)
    recording.lazy(Site(path, "map", number, None, MAP), reader, call["query"].shape[-2])
    return None


def _edited(recording: Recording, call: dict[str, Any], number: int) -> Tensor:
    """The heads, computed from an edited map. Dropout is left out."""
    path = recording.frames[-1].path
    q, k, v = call["query"], call["key"], call["value"]
    before = {t.grad_fn for t in (q, k, v) if t.grad_fn is not None}
    attention = mixing(q, k, _options(call))
    recording.tape.claim([attention], before, f"the map of {recording.place}")
    attention = recording.visit(path, "map", number, attention, MAP)
    out = attention @ grouped(v, q)
    recording.tape.claim([out], before, f"the heads of {recording.place}")
    return out


def _options(call: dict[str, Any]) -> dict[str, Any]:
    return {n: x for n, x in call.items() if n not in ("query", "key", "value", "dropout_p")}


def differentiable(recording: Recording, path: str, number: int, port: str, like: Tensor) -> None:
    """Give a lazy map its gradient, d score / d map = dO V', which no fused kernel ever forms.

    port  the values that the map multiplies: tokens `v`, else pictures whose channels are heads
    like  any tensor with a head for each of the map's
    """
    pictures = port != "v"
    values = recording.trace.values_by_site
    attention, heads, v = (values.get(Site(path, p, number)) for p in ("map", "heads", port))
    if attention is None or attention.held is not None or not recording.grad:
        return

    def read() -> Tensor | None:
        if heads is None or v is None:
            raise SiteError(
                f"the gradient of {site} is made from the heads and {port} of the same "
                f"attention; watch '{path}:heads' and '{path}:{port}' as well"
            )
        if heads.grad is None:
            return None
        received, values = heads.grad, grouped(v.act, few)
        if pictures:
            received, values = (x.flatten(2)[..., None] for x in (received, values))
        return received @ values.transpose(-1, -2)

    site, few = attention.site, like.detach()[..., :0, :0]  # only its number of heads is needed
    attention.gradient = read


def softmax(mode: OpMode, op: Op, func: Any, args: Any, kwargs: Any) -> Any:
    """Recognise the map of a written-out attention: softmax of a product of q and k."""
    recording = mode.recording
    frame = next((f for f in recording.frames[:-3:-1] if f.product is not None), None)
    if frame is None or frame.product is None:  # an nn.Softmax runs in a frame of its own
        return mode.call(op, func, args, kwargs)
    q, k = frame.product
    out = mode.call(op, func, args, kwargs)
    if not isinstance(out, Tensor) or out.ndim != 4:
        return out
    number = recording.count(frame.path, "heads")
    _show(recording, Site(frame.path, "q", number, None, HEADS), q)
    _show(recording, Site(frame.path, "k", number, None, HEADS), k, flipped=True)
    frame.softmax = recording.visit(frame.path, "map", number, out, MAP)
    return frame.softmax


def _show(recording: Recording, site: Site, x: Tensor, *, flipped: bool = False) -> None:
    """Capture what has entered a product already. Raises SiteError when it should be edited."""
    request = recording.requests.at(site.path, site.port, site.call)
    if request is not None and request.edits:
        raise SiteError(
            f"{site} cannot be edited: this attention is written out, and is recognised only once "
            "q and k have been multiplied; edit the module that makes them, or the map"
        )
    recording.visit(site.path, site.port, site.call, x, site.axes)
    value = recording.trace.values_by_site.get(site)
    if flipped and value is not None and value.held is not None:
        value.flipped = True
        value.hold(value.held.transpose(-1, -2))


def matmul(mode: OpMode, op: Op, func: Any, args: Any, kwargs: Any) -> Any:
    """Remember q k' for a softmax to come; show v and the heads of map @ v."""
    frame = mode.recording.frames[-1]
    if not frame.heads or len(args) != 2:
        return mode.call(op, func, args, kwargs)
    left, right = args
    if frame.softmax is None or left.shape != frame.softmax.shape:
        frame.product = (left, right)
        return mode.call(op, func, args, kwargs)
    recording, number = mode.recording, mode.recording.calls[frame.path, "heads"] - 1
    frame.softmax = frame.product = None
    right = recording.visit(frame.path, "v", number, right, HEADS)
    out = mode.call(op, func, (left, right), kwargs)
    return recording.visit(frame.path, "heads", number, out, HEADS)


def multi_head(mode: OpMode, op: Op, func: Any, args: Any, kwargs: Any) -> Any:
    """Re-express multi-head attention from ops, so that its parts are sites."""
    call = _MHA.bind(*args, **kwargs)
    call.apply_defaults()
    mode.tell(call.arguments["query"], "n b c", "multi-head attention")
    with mode:
        return multi_head_attention(**call.arguments)

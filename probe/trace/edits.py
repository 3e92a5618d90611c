"""Edits: functions from a value and its site to the value that takes its place.

They act during the forward, compose in the order given, work on single heads and channels
(`blocks.3.attn:heads.6`, `features.10:out[17]`), and are recorded in the trace.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import OptionError, SiteError
from ..sites import HEAD_PORTS, Site
from .trace import Trace
from .value import index_dim

Edit = Callable[[Tensor, Site], Tensor]


def zero(value: Tensor, site: Site) -> Tensor:
    """Replace the value by zeros.

    Example:
        >>> ll.patch(net, x, {"0:out[5]": ll.zero}, target=1).shape
        torch.Size([2])
    """
    return torch.zeros_like(value)


def freeze(value: Tensor, site: Site) -> Tensor:
    """Keep the value, stop its gradient.

    Example:
        >>> ll.patch(net, x, {"1": ll.freeze}, target=1).shape
        torch.Size([2])
    """
    return value.detach()


def mean(over: Trace | str = "batch") -> Edit:
    """Replace by the mean over the batch (`"all"`: positions too), or over another trace's.

    Example:
        >>> ll.patch(net, x, {"0": ll.mean()}, target=1).shape
        torch.Size([2])
    """

    if not isinstance(over, Trace) and over not in ("batch", "all"):
        raise OptionError(f"mean is taken over 'batch', 'all' or a trace, not {over!r}")

    def edit(value: Tensor, site: Site) -> Tensor:
        if isinstance(over, Trace):
            return over[site].act.to(value).mean(0, keepdim=True)
        if over == "batch":
            return value.mean(0, keepdim=True)
        keep = index_dim(site, value.ndim) if site.index is None else None
        return value.mean([d for d in range(value.ndim) if d != keep], keepdim=True)

    name = f"mean({'another trace' if isinstance(over, Trace) else over})"
    return _named(edit, name, channels=over == "all")


def add(vector: Tensor | float) -> Edit:
    """Add a number or a tensor: `c` numbers go to the channels, other shapes broadcast.

    Example:
        >>> ll.patch(net, x, {"0": ll.add(1.0)}, target=1).shape
        torch.Size([2])
    """

    def edit(value: Tensor, site: Site) -> Tensor:
        channels = site.index is None and site.port not in HEAD_PORTS
        if isinstance(vector, Tensor) and vector.ndim == 1 and channels:
            shape = [1] * value.ndim
            shape[index_dim(site, value.ndim)] = -1
            return value + vector.to(value).reshape(shape)
        return value + (vector.to(value) if isinstance(vector, Tensor) else vector)

    return _named(edit, "add", channels=isinstance(vector, Tensor) and vector.ndim == 1)


def scale(factor: Tensor | float) -> Edit:
    """Multiply by a number or a tensor that broadcasts.

    Example:
        >>> ll.patch(net, x, {"0": ll.scale(0.5)}, target=1).shape
        torch.Size([2])
    """
    return _named(
        lambda value, site: value * (factor.to(value) if isinstance(factor, Tensor) else factor),
        f"scale({factor if isinstance(factor, float | int) else '...'})",
    )


def swap(trace: Trace) -> Edit:
    """Replace by the value of the same site in another trace (activation patching).

    Example:
        >>> other = ll.trace(net, x.flip(0), "0")
        >>> ll.patch(net, x, {"0": ll.swap(other)}, target=1).shape
        torch.Size([2])
    """
    return _named(lambda value, site: _fit(trace[site].act.to(value), value, site), "swap")


def apply(edit: Edit, value: Tensor, site: Site) -> Tensor:
    """The value after an edit of the whole, or of the one head or channel that `site` names."""
    if site.index is None:
        return _fit(edit(value, site), value, site)
    dim = index_dim(site, value.ndim)
    if not -value.shape[dim] <= site.index < value.shape[dim]:
        raise SiteError(f"{site} cannot be edited: there are {value.shape[dim]} of them")
    part = value.select(dim, site.index)
    return value.select_scatter(_fit(edit(part, site), part, site), dim, site.index)


def name_of(edit: Edit) -> str:
    """How an edit is recorded."""
    return getattr(edit, "__name__", type(edit).__name__)


def _fit(new: Tensor, value: Tensor, site: Site) -> Tensor:
    if not isinstance(new, Tensor):
        raise SiteError(
            f"the edit at {site} returned {type(new).__name__}; it must return a tensor"
        )
    try:
        shaped = new if new.shape == value.shape else new.expand_as(value)
    except RuntimeError:
        raise SiteError(
            f"the edit at {site} returned shape {tuple(new.shape)} where "
            f"{tuple(value.shape)} is needed"
        ) from None
    return shaped.to(value.dtype)


def reads_channels(edit: Edit) -> bool:
    """Whether an edit has to know which dimension holds the channels."""
    return getattr(edit, "channels", False)


def _named(edit: Edit, name: str, *, channels: bool = False) -> Edit:
    edit.__name__ = name
    edit.channels = channels  # type: ignore[attr-defined]
    return edit

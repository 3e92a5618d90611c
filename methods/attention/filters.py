"""The filters of long convolutions on one input: those of all sequences, and those each makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ...kernels.long_convolution import kernel_taps, long_convolution
from ...probe.attribution import Axes, heads_of, watched
from ...probe.errors import MethodError
from ...probe.probe import Probe
from ...probe.sites import Site

MARKS = ("kernel_fixed", "kernel_adapt")


class TwoFilters(Protocol):
    """A static and an adaptive filter over lags, `1 c l` and `b c l`."""

    @property
    def static(self) -> Tensor: ...

    @property
    def adaptive(self) -> Tensor: ...


@runtime_checkable
class MakesFilters(Protocol):
    """A mixer whose filter is a static one and one made of the input, both marked."""

    def filters(self, kernel_fixed: Tensor, kernel_adapt: Tensor) -> TwoFilters:
        """What the marks of these names held, as filters."""
        ...


@dataclass(frozen=True, eq=False)
class LayerFilters:
    """The filters of one mixer, `c l` each over lags 0, 1, ..; of circular ones modulo l.

    parts   "filter" alone, or "static" and "adaptive", which are added. Skips are no part of them.
    """

    path: str
    parts: dict[str, Tensor]

    def energy(self, name: str) -> Tensor:
        """The sum of squared taps of a part, by channel, `c`."""
        return self.parts[name].square().sum(-1)

    def power(self, name: str) -> tuple[Tensor, Tensor]:
        """Frequencies in cycles a token, and |transform|^2 there, the mean over channels."""
        taps = self.parts[name].double()
        points = max(taps.shape[-1], 64)  # a few taps are a smooth curve
        spectrum = torch.fft.rfft(taps, n=points).abs().square().mean(0)
        return torch.fft.rfftfreq(points, dtype=torch.float64), spectrum


def mixing_filters(model: nn.Module, x: Tensor, axes: Axes = None) -> tuple[LayerFilters, ...]:
    """The filters of a model's long convolutions on the first sample of x, in execution order.

    Raises MethodError where the model mixes by none.
    """
    modules = model.named_modules()
    makers = {p: m for p, m in modules if isinstance(m, MakesFilters) and callable(m.filters)}
    with Probe(model, grad=False, axes=axes) as probe:
        patterns = watched(probe, ["heads"]) if probe.adapter.heads else []
        marks = {path: [Site(path, mark) for mark in MARKS] for path in makers}
        for names in marks.values():
            probe.watch(*names)
        probe(x)
        held = {path: [v.act for v in probe.values(names)] for path, names in marks.items()}
        seen = heads_of(probe, patterns, None) if patterns and not makers else []
    found = [_of_two(path, makers[path], x) for path, x in held.items() if len(x) == len(MARKS)]
    for heads in seen:
        op = heads.op
        taps = None if op is None else op.argument("filter")
        if op is None or taps is None or op.mixing is not long_convolution.face.mixing:
            continue
        kept = kernel_taps(taps, heads.shape[2], bool(op.held.get("circular")))
        kept = kept[..., : heads.shape[2]]  # of a spectrum over twice the tokens, lags to the past
        found.append(LayerFilters(heads.site.path, {"filter": _first(kept)}))
    if not found:
        raise MethodError(
            "filters of long convolutions were asked for, but this model mixes by none: give one "
            "such as zoology_hyena or orchid_bert_base"
        )
    return tuple(found)


def _of_two(path: str, maker: MakesFilters, held: list[Tensor]) -> LayerFilters:
    both = maker.filters(*held)
    return LayerFilters(path, {"static": _first(both.static), "adaptive": _first(both.adaptive)})


def _first(taps: Tensor) -> Tensor:
    return (taps if taps.ndim == 2 else taps[0]).detach().float().cpu()

"""A straight path at a layer: from its value at the path's start to its value at the input.

Source: Sundararajan et al., arXiv 1703.01365, at a layer as Dhamdhere et al., arXiv 1805.12233.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..attribution import BoundMethod, MethodAtSite, Path, RawMap
from ..sites import Pattern
from ..targets import Target
from .batch import Batch
from .moved_inputs import MovedInput
from .passes import Passes
from .path_walk import Walker


@dataclass(frozen=True)
class Layer:
    """A value of a model, or a part of it, between a start and the input."""

    source: MethodAtSite
    start: Tensor
    end: Tensor
    change: Tensor

    def at(self, share: float, value: Tensor) -> Tensor:
        """The value `share` of the way from its start to its end, with the gradient of `value`."""
        place = self.start + share * (self.end - self.start)
        return place.to(value) + (value - value.detach())


def layer_maps(
    passes: Callable[[Sequence[Pattern]], Passes],
    own: Walker,
    patterns: Sequence[Pattern],
    batch: Batch,
    moved: Sequence[MovedInput],
    target: Target,
) -> list[RawMap]:
    """The maps of a straight path at the layers that patterns mean, each on its own.

    passes  what reads plain gradients at patterns; the model runs on the input, and the layer
            alone is moved, so that what goes around it stays
    """
    maps = []
    for layer in _layers(passes(patterns), own, batch, moved):
        maps.append(_along(passes, own.bound, own.paths[0], layer, batch, target))
    return maps


def _layers(passes: Passes, own: Walker, batch: Batch, moved: Sequence[MovedInput]) -> list[Layer]:
    with passes:
        starts = {s.site: s.value.act for s in passes.forward(_start(batch, own.paths, moved))}
        layers = []
        for source in passes.forward(batch):
            start, end = starts[source.site], source.value.act
            layout = passes.probe.layout(source.value)
            change = layout.canonical(end) - layout.canonical(start)
            part = source.part(layout)
            change = change if part is None else part(change)
            layers.append(Layer(source, start, end, change))
        return layers


def _start(batch: Batch, paths: Sequence[Path], moved: Sequence[MovedInput]) -> Batch:
    """The batch with its inputs where their paths begin."""
    values = {}
    for path, one in zip(paths, moved, strict=True):
        start = path.starts(one.layout.canonical(one.x))
        values[one.name] = one.layout.restore(start, one.x.shape, one.x.dtype)
    return batch.with_inputs(values)


def _along(
    passes: Callable[[Sequence[Pattern]], Passes],
    bound: BoundMethod,
    path: Path,
    layer: Layer,
    batch: Batch,
    target: Target,
) -> RawMap:
    """One gradient for each point of the path, folded."""
    site = layer.source.value.site
    here = Pattern(site.path, site.port, site.call, layer.source.index, site.axes)
    shares = () if path.line is None else path.line.nodes
    state, share = None, [0.0]
    one = passes([here])
    one.probe.edit({replace(here, index=None): lambda value, _: layer.at(share[0], value)})
    with one:
        for k, share[0] in enumerate(shares):
            (raw,) = one.raw_maps(batch, target)
            state = path.fold(state, raw.values, k)
    values = path.finish(state, len(shares), layer.change.cpu())
    return replace(raw, source=replace(raw.source, bound=bound), values=values)

"""Where heads write: the output z of every head before the projection, and the projection W_O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...probe.errors import MethodError, SiteError
from ...probe.probe import Probe
from ...probe.sites import Adapter, Site, adapt, parse
from ...probe.trace import Edit, Trace

COUNTS = ("num_heads", "n_heads", "num_attention_heads", "n_head", "nhead", "heads")
FEW = 2  # class tokens that may join between layers


@dataclass(frozen=True, eq=False)
class HeadOutput:
    """The heads of one attention module as they enter the residual stream.

    site    where z passes: the input of the output projection `b n (h d)`, or heads `b h n d`
    module  the attention module
    block   the layer that holds it, or "" where it lies outside the hidden layers
    weight  W_O, `h d m`: head i adds z_i W_O,i to the residual stream (the bias is nobody's)
    """

    site: Site
    module: str
    block: str
    weight: Tensor

    @property
    def heads(self) -> int:
        return self.weight.shape[0]

    @property
    def dim(self) -> int:
        return self.weight.shape[1]

    @property
    def flat(self) -> bool:
        """Whether the site holds heads side by side in its last dimension."""
        return self.site.port != "heads"

    def split(self, value: Tensor) -> Tensor:
        """The value at the site as `b n h d`, whatever positions it has."""
        if not self.flat:
            return value.transpose(1, 2)
        return value.flatten(1, -2).unflatten(-1, (self.heads, self.dim))

    def join(self, z: Tensor, like: Tensor) -> Tensor:
        """The inverse of `split`."""
        return z.transpose(1, 2) if not self.flat else z.flatten(2).reshape(like.shape)

    def edit(self, change: Any) -> Edit:
        """An edit of the site from a function of z, `b n h d` to the same shape."""

        def edit(value: Tensor, site: Site) -> Tensor:
            return self.join(change(self.split(value)), value)

        return edit

    def result(self, z: Tensor) -> Tensor:
        """What each head adds to the residual stream: `... h d` to `... h m`."""
        return torch.einsum("...hd,hdm->...hm", z, self.weight.to(z))


@dataclass(frozen=True, eq=False)
class Outputs:
    """The heads of a whole model, layer after layer; `h` counts them all."""

    model: nn.Module
    layers: tuple[HeadOutput, ...]
    adapter: Adapter
    notes: tuple[str, ...] = ()

    @cached_property
    def layer(self) -> Tensor:
        """The layer of each head, `h`."""
        return torch.cat([torch.full((o.heads,), i) for i, o in enumerate(self.layers)])

    @cached_property
    def names(self) -> tuple[tuple[int, int], ...]:
        """Layer and number in it of each head."""
        return tuple((i, j) for i, o in enumerate(self.layers) for j in range(o.heads))

    @property
    def blocks(self) -> tuple[str, ...]:
        """The layer of each attention. Raises MethodError where one lies in none."""
        missing = [o.module for o in self.layers if not o.block]
        if missing:
            raise MethodError(
                f"edges between heads need the layer of each attention, but {missing[0]!r} lies "
                f"in none of the hidden layers"
            )
        return tuple(o.block for o in self.layers)

    @property
    def end(self) -> Site:
        """The output of the last hidden layer."""
        return Site(parse(self.adapter.hidden[-1]).path)

    @cached_property
    def weight(self) -> Tensor:
        """W_O of all heads, `h d m`."""
        return torch.cat([o.weight.float() for o in self.layers])

    def __len__(self) -> int:
        return len(self.names)

    def place(self, layer: int, head: int) -> int:
        """The number of a head among all. Raises SiteError."""
        if (layer, head) not in self.names:
            raise SiteError(
                f"head {layer}.{head} was asked, but there are {len(self.layers)} layers of "
                f"{self.layers[0].heads} heads"
            )
        return self.names.index((layer, head))

    def span(self, layer: int) -> slice:
        """The places of one layer's heads."""
        before = sum(o.heads for o in self.layers[:layer])
        return slice(before, before + self.layers[layer].heads)

    def stack(self, trace: Trace, what: Literal["act", "grad"] = "act") -> Tensor:
        """z of all heads in a trace, or its gradient, `b n h d`.

        Where a class token comes late, layers before it have zeros in its place; heads that the
        output does not depend on have gradient 0.
        """
        values = [trace[o.site] for o in self.layers]
        tensors = [v.act if what == "act" else v.grad for v in values]
        filled = [torch.zeros_like(v.act) if f is None else f for v, f in zip(values, tensors)]  # noqa: B905
        return stacked([o.split(x) for o, x in zip(self.layers, filled, strict=True)])


def stacked(parts: Sequence[Tensor]) -> Tensor:
    """Heads of several layers, `b n h d` each, side by side, shorter ones with zeros in front."""
    most = max(part.shape[1] for part in parts)
    return torch.cat([longer(part, most) for part in parts], 2)


def longer(x: Tensor, tokens: int) -> Tensor:
    """`b n ...` with zeros for tokens in front that are not there yet."""
    missing = tokens - x.shape[1]
    return x if not missing else torch.cat([x.new_zeros(len(x), missing, *x.shape[2:]), x], 1)


def head_outputs(model: nn.Module, x: Tensor) -> Outputs:
    """Find every head of a model by one forward of one sample.

    x   an input, `b ...`; its first sample is run
    Heads are read where they enter their output projection, so that fused kernels, grouped keys,
    gates and norms behind the mixer are all included. Raises MethodError where none is found.
    """
    adapter = adapt(model)
    notes: list[str] = []
    with Probe(model, grad=False) as probe:
        candidates = {a: _projections(probe.modules, a) for a in adapter.heads}
        trace = _seen(probe, x[:1])
        projections = []
        for module in adapter.heads:
            output = _output(probe, trace, module, candidates[module])
            if isinstance(output, str):
                notes.append(f"{module}: {output}")
            else:
                projections.append((output, _block(adapter.hidden, module)))
        order = {site: i for i, site in enumerate(trace)}
    projections.sort(key=lambda pair: order[pair[0][0]])
    layers = tuple(HeadOutput(site, m, block, w) for (site, m, w), block in projections)
    if not layers:
        why = f" ({'; '.join(notes[:2])})" if notes else ""
        raise MethodError(
            f"heads were to be read, but in {type(model).__name__} no attention with an output "
            f"projection was found{why}; `limelight sites` lists what the probe sees"
        )
    tokens = {o.split(trace[o.site].act).shape[1] for o in layers}
    if max(tokens) - min(tokens) > FEW:
        raise MethodError(
            f"heads are compared over the same tokens, but those of {type(model).__name__} have "
            f"from {min(tokens)} to {max(tokens)}"
        )
    sizes = sorted({(o.dim, o.weight.shape[2]) for o in layers})
    if len(sizes) > 1:
        widths = ", ".join(f"{d} into {m}" for d, m in sizes)
        raise MethodError(
            f"heads are compared that write into one residual stream, but those of "
            f"{type(model).__name__} write from {widths} channels"
        )
    return Outputs(model, layers, adapter, tuple(notes))


def _seen(probe: Probe, x: Tensor) -> Trace:
    """Everything that enters a module, and the heads wherever attention is seen."""
    probe.watch("**:in")
    probe(x)
    plain = probe.trace
    probe.watch("**:heads")
    try:
        probe(x)
    except SiteError:  # no attention that the probe knows; modules may still tell of heads
        return plain
    return probe.trace


def _projections(modules: Mapping[str, nn.Module], attention: str) -> list[str]:
    """Linear layers inside an attention module, by a two-dimensional weight."""
    return [
        path
        for path, module in modules.items()
        if path.startswith(attention + ".") and _weight(module) is not None
    ]


def _weight(module: nn.Module) -> Tensor | None:
    """The matrix of a linear layer as `inputs outputs`; None for other modules."""
    weight = module._parameters.get("weight")
    if weight is None or weight.ndim != 2 or isinstance(module, nn.Embedding):
        return None
    return weight.detach() if type(module).__name__ == "Conv1D" else weight.detach().T


def _output(
    probe: Probe, trace: Trace, module: str, candidates: list[str]
) -> tuple[Site, str, Tensor] | str:
    """Site, module and W_O of one attention module, or why there is none."""
    z = next((v for s, v in trace.items() if (s.path, s.port) == (module, "heads")), None)
    heads = _count(probe.modules[module]) if z is None or z.act.ndim != 4 else z.act.shape[1]
    if not heads:
        return "the number of its heads is unknown"
    entered = [(s, v.act) for s, v in trace.items() if s.path in candidates and s.port == "in"]
    width = 0 if z is None else heads * z.act.shape[-1]
    fitting = [
        (site, act)
        for site, act in entered
        if act.shape[-1] == (width or act.shape[-1]) and act.shape[-1] % heads == 0
    ]
    if z is not None:
        same = [pair for pair in fitting if _equal(pair[1], z.act)]
        fitting = same or [pair for pair in fitting if _after(trace, pair[0], z.site)]
    if fitting:
        site, act = fitting[-1]
        if act.shape[0] != 1:
            return f"it attends in {act.shape[0]} windows a sample"
        weight = _weight(probe.modules[site.path])
        return site, module, weight.unflatten(0, (heads, -1))  # type: ignore[union-attr]
    projection = getattr(probe.modules[module], "out_proj", None)
    if z is None or projection is None:
        return "no output projection was found behind its heads"
    if z.act.shape[0] != 1:
        return f"it attends in {z.act.shape[0]} windows a sample"
    return z.site, module, projection.weight.detach().T.unflatten(0, (heads, -1))


def _count(module: nn.Module) -> int:
    """The number of heads that a module, or its configuration, tells of."""
    for owner in (module, getattr(module, "config", None)):
        for name in COUNTS:
            value = getattr(owner, name, None)
            if isinstance(value, int) and value > 0:
                return value
    return 0


def _equal(flat: Tensor, z: Tensor) -> bool:
    joined = z.transpose(1, 2).flatten(2)
    return joined.numel() == flat.numel() and torch.equal(joined.reshape(flat.shape), flat)


def _after(trace: Trace, site: Site, other: Site) -> bool:
    order = list(trace)
    return order.index(site) > order.index(other)


def _block(hidden: tuple[str, ...], module: str) -> str:
    """The hidden layer that a module lies in."""
    for address in hidden:
        path = parse(address).path
        if module == path or module.startswith(path + "."):
            return path
    return ""

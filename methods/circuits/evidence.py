"""What all circuit methods read: the heads' outputs on clean and corrupt inputs, and gradients.

One clean forward and one corrupt forward of every pair serve all methods; where one of them reads
gradients, the clean forward is followed by one backward. Inputs of one shape run together, so
that nothing is padded; tokens of all pairs are stored one after the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...probe.errors import OptionError
from ...probe.probe import Probe
from ...probe.sites import Site
from ...probe.trace import Edit, Trace
from .head_outputs import Outputs, head_outputs
from .tasks import PairBatch, Pairs

Visit = Callable[[PairBatch, Probe], None]


@dataclass
class TimedVisit:
    """What is called with every group, and the seconds that it took."""

    visit: Visit | None
    seconds: float = 0.0

    def __call__(self, group: PairBatch, probe: Probe) -> None:
        if self.visit is not None:
            start = time.perf_counter()
            self.visit(group, probe)
            self.seconds += time.perf_counter() - start


@dataclass(frozen=True, eq=False)
class Side:
    """One side of all pairs: z of every head at every token, and the metric.

    z        `t h d`
    metric   `p`
    lengths  tokens of each pair, `p`
    """

    z: Tensor
    metric: Tensor
    lengths: Tensor


class Evidence:
    """The activations of one model on one task, computed when first read, then kept.

    model, pairs   what was run
    outputs        where the heads write
    batch          pairs that run together
    seconds        what the forwards and the backward took
    """

    def __init__(
        self, model: nn.Module, pairs: Pairs, *, outputs: Outputs | None = None, batch: int = 16
    ) -> None:
        if len(pairs) < 2:
            raise OptionError(f"a circuit is sought on at least 2 pairs, not on {len(pairs)}")
        self.model, self.pairs, self.batch = model, pairs, batch
        self.outputs = outputs or head_outputs(model, pairs[0].clean[None])
        self.seconds: dict[str, float] = {}
        self._sides: dict[str, Side] = {}
        self._gradient: Tensor | None = None
        self._values: dict[Site, tuple[Tensor, Tensor]] = {}
        self._kept: dict[Any, Any] = {}

    @property
    def heads(self) -> int:
        return len(self.outputs)

    def knows(self, side: str) -> bool:
        """Whether a side has been run."""
        return side in self._sides

    @property
    def clean(self) -> Side:
        if "clean" not in self._sides:
            self.run("clean", gradient=False)
        return self._sides["clean"]

    @property
    def corrupt(self) -> Side:
        if "corrupt" not in self._sides:
            self.run("corrupt", gradient=False)
        return self._sides["corrupt"]

    @property
    def gradient(self) -> Tensor:
        """d metric / d z on the clean inputs, `t h d`."""
        if self._gradient is None:
            self.run("clean", gradient=True)
        return self._gradient  # type: ignore[return-value]

    def at(self, site: Site) -> tuple[Tensor, Tensor]:
        """The value at any site of tokens and its slope, on the clean inputs: `t m` twice."""
        if site not in self._values:
            self.run("clean", gradient=True, sites=[site])
        return self._values[site]

    @property
    def labels(self) -> Tensor:
        """The examples of both sides, positives first: True for clean, `e` = 2 p."""
        count = len(self.pairs)
        return torch.arange(2 * count) < count

    @property
    def lengths(self) -> Tensor:
        """Tokens of each pair, `p`."""
        side = next(iter(self._sides.values()), None)
        return (side or self.clean).lengths

    @property
    def pair(self) -> Tensor:
        """The pair of each token, `t`."""
        lengths = self.lengths
        return torch.repeat_interleave(torch.arange(len(lengths)), lengths)

    @property
    def last(self) -> Tensor:
        """Whether a token is the last of its input, `t`."""
        lengths = self.lengths
        last = torch.zeros(int(lengths.sum()), dtype=torch.bool)
        last[lengths.cumsum(0) - 1] = True
        return last

    def rows(self, places: Sequence[int]) -> Tensor:
        """The tokens of some pairs, in that order."""
        starts = [0, *self.lengths.cumsum(0).tolist()]
        return torch.cat([torch.arange(starts[i], starts[i + 1]) for i in places])

    def keep(self, key: Any, make: Any) -> Any:
        """What `make` gave when this was first asked for: methods share what they have made."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def examples(self, *, at: str = "mean") -> Tensor:
        """z of every example, positives first, `e h d`: mean over its positions, or at the last."""
        if at not in ("mean", "last"):
            raise OptionError(
                f"examples are read at 'mean' or 'last' of their positions, not {at!r}"
            )
        return self.keep(("examples", at), lambda: self._examples(at))

    def _examples(self, at: str) -> Tensor:
        sides = self.clean, self.corrupt
        if at == "last":
            return torch.cat([side.z[self.last] for side in sides])
        return torch.cat([self.sum_pairs(s.z) / s.lengths[:, None, None] for s in sides])

    def sum_pairs(self, tokens: Tensor) -> Tensor:
        """Sum over the tokens of each pair: `t ...` to `p ...`."""
        total = tokens.new_zeros(len(self.pairs), *tokens.shape[1:])
        return total.index_add_(0, self.pair, tokens)

    def run(
        self,
        side: str,
        *,
        gradient: bool,
        sites: Sequence[Site] = (),
        edits: Mapping[Any, Edit] | None = None,
        visit: Visit | None = None,
    ) -> None:
        """Run one side of all pairs, with a backward from the metric if wanted.

        sites   where values and slopes are kept as well, for `at`
        visit   called with every group while its graph still stands, and with the probe
        """
        start, visits = time.perf_counter(), TimedVisit(visit)
        parts: dict[Any, list[Any]] = {}
        metric = torch.zeros(len(self.pairs))
        with Probe(self.model, grad=gradient, whole=True) as probe:
            probe.watch(*(o.site for o in self.outputs.layers), *sites).edit(edits or {})
            for group in self.pairs.batches(self.batch):
                metric[group.places] = _run(probe, group, side, gradient, visits).float().cpu()
                for key, values in self._read_trace(probe.trace, sites, gradient).items():
                    column = parts.setdefault(key, [None] * len(self.pairs))
                    for place, part in zip(
                        group.places, values.detach().float().cpu(), strict=True
                    ):
                        column[place] = part
        lengths = torch.tensor([len(part) for part in parts["z"]])
        whole = {key: torch.cat(column) for key, column in parts.items()}
        self._sides[side] = Side(whole["z"], metric, lengths)
        self._gradient = whole.get("slope", self._gradient)
        self._values |= {site: (whole[site, "act"], whole[site, "grad"]) for site in sites}
        name = f"{side} forward" + " and backward" * gradient
        self.seconds[name] = time.perf_counter() - start - visits.seconds

    def _read_trace(self, trace: Trace, sites: Sequence[Site], gradient: bool) -> dict[Any, Tensor]:
        """What a group left behind, `b n ...` each."""
        values: dict[Any, Tensor] = {"z": self.outputs.stack(trace, "act")}
        if gradient:
            values["slope"] = self.outputs.stack(trace, "grad")
        for site in sites:
            value = trace[site]
            grad = torch.zeros_like(value.act) if value.grad is None else value.grad
            values |= {(site, "act"): value.act.flatten(1, -2), (site, "grad"): grad.flatten(1, -2)}
        return values


def _run(probe: Probe, group: PairBatch, side: str, gradient: bool, visits: TimedVisit) -> Tensor:
    """Run a group and take the gradient; the metric of each pair."""
    output = probe(feed(probe.model, group.clean if side == "clean" else group.corrupt))
    target = group.pairs.target()
    if gradient:
        probe.backward(target, retain=visits.visit is not None)
    visits(group, probe)
    with torch.no_grad():
        return target(output)


def feed(model: nn.Module, x: Tensor) -> Tensor:
    """An input where the model's weights lie."""
    return x.to(next(model.parameters()).device)

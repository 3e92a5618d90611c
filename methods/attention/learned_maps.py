"""What a model with learned maps has learned: its functions, and what they do to rank.

KArAt (arXiv 2503.10632) replaces softmax by W Phi(A), r functions of each row of scores A.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...kernels.kan import LEARNED, Functions, KanForm
from ...probe.errors import MethodError
from ...probe.probe import Probe
from .signed_maps import rank, singular_values


@dataclass(frozen=True, eq=False)
class LearnedCurves:
    """One set of learned functions at the numbers x.

    path    the module that holds them, and of two sets `path:2` for the second
    values  phi_pq(x), `h p q x`: p functions of each of q numbers, in each learned head
    """

    path: str
    x: Tensor
    values: Tensor


@dataclass(frozen=True, eq=False)
class MapSpectra:
    """Singular values of one module's attention, in falling order and float64.

    scores   of A = q k' / sqrt(d), `b h k`
    reduced  of what the map is made of in the last step, Phi(A) of W Phi(A), for learned heads;
             None where maps are not learned
    map      of the map
    """

    site: str
    scores: Tensor
    reduced: Tensor | None
    map: Tensor

    def ranks(self, share: float = 0.99) -> dict[str, Tensor]:
        """How many values hold that share of the squares, `b h`, by the names above."""
        parts = {"scores": self.scores, "reduced": self.reduced, "map": self.map}
        return {name: rank(x, share) for name, x in parts.items() if x is not None}


def learned_curves(
    model: nn.Module, *, low: float = -3.0, high: float = 3.0, points: int = 121
) -> tuple[LearnedCurves, ...]:
    """Every learned function of a model's attention between two scores.

    Raises MethodError where the model has none.
    """
    found = []
    for path, module in model.named_modules():
        form, held = getattr(module, "form", None), dict(module.named_parameters(recurse=False))
        if not isinstance(form, KanForm) or "a" not in held:
            continue
        for mark, name in (("", path), ("2", f"{path}:2")):
            if f"a{mark}" in held:
                own = _functions(held, mark)
                x = torch.linspace(low, high, points, dtype=own.a.dtype, device=own.a.device)
                with torch.no_grad():
                    found.append(LearnedCurves(name, x, form.curves(x, own)))
    if not found:
        raise MethodError(
            "learned functions of attention were asked for, but this model has none: give one "
            "with Kolmogorov-Arnold attention, as karat_tiny_g3b"
        )
    return tuple(found)


def _functions(tensors: Mapping[str, Any], mark: str) -> Functions:
    names = ("a", "b", "scale_base", "scale_sp")
    own: dict[str, Any] = {name: tensors.get(name + mark) for name in names}
    return Functions(**own)


def map_spectra(model: nn.Module, *inputs: Any) -> tuple[MapSpectra, ...]:
    """Singular values of scores, reduced rows and maps, attention by attention.

    Raises MethodError where the probe knows no attention of this model, or no q and k.
    """
    with Probe(model, grad=False) as probe:
        paths = probe.adapter.heads
        if not paths:
            raise MethodError(
                "singular values of attention were asked for, but this model has no attention "
                "that the probe knows"
            )
        probe.watch(*(f"{path}:*" for path in paths), *(f"{path}:map" for path in paths))
        probe(*inputs)
        return tuple(_spectra(probe, path) for path in paths)


def _spectra(probe: Probe, path: str) -> MapSpectra:
    ports = {s.port: v for s, v in probe.trace.items() if s.path == path and not s.call}
    if not {"q", "k", "map"} <= set(ports):
        raise MethodError(
            f"singular values of {path!r} were asked for, but it shows no q, k and map of one "
            "attention: ask for map_rank, which reads maps alone"
        )
    q, k = (ports[name].act.detach().double() for name in ("q", "k"))
    form = getattr(probe.modules[path], "form", None)
    reduced = None
    if isinstance(form, KanForm):
        tensors = {n: ports[n].act.detach().double() for n in LEARNED if n in ports}
        reduced = singular_values(form.reduced(q, k, **tensors))
    keys = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    scores = q @ keys.mT * q.shape[-1] ** -0.5
    return MapSpectra(path, singular_values(scores), reduced, singular_values(ports["map"].act))

"""Layer-wise relevance propagation (Bach et al. 2015) through any op, by presets or rules."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, Literal

from torch import Tensor

from ...probe.attribution import Spread, method
from ...probe.errors import OptionError
from ...probe.relevance import Epsilon, Gamma, LinearRule, PositiveGamma, Preset, ZBox
from ...probe.relevance import preset as preset_named


def regime(
    *,
    preset: str | Preset,
    init: Any,
    epsilon: float | None,
    gamma: float | None,
    low: float | None,
    high: float | None,
    bias: bool,
    pool: Any,
    unknown: Any,
    through: str | tuple[str, ...],
    hold: str | tuple[str, ...],
    channels: bool,
) -> Preset:
    """The preset that the options of `lrp` mean."""
    if isinstance(preset, Preset):
        base = preset
    else:
        base = Preset("auto") if preset == "auto" else preset_named(preset)

    def tune(rule: LinearRule | None) -> LinearRule | None:
        changes: dict[str, Any] = {}
        if isinstance(rule, Epsilon) and epsilon is not None:
            changes["eps"] = epsilon
        if isinstance(rule, Gamma | PositiveGamma) and gamma is not None:
            changes["gamma"] = gamma
        if isinstance(rule, ZBox):
            changes |= {k: v for k, v in (("low", low), ("high", high)) if v is not None}
        if rule is not None and not bias and any(f.name == "bias" for f in fields(rule)):  # type: ignore[arg-type]
            changes["bias"] = False
        return replace(rule, **changes) if changes else rule  # type: ignore[type-var]

    boxed = any(isinstance(rule, ZBox) for rule in (base.conv, base.linear, base.first))
    if not boxed and (low is not None or high is not None):
        raise OptionError(
            f"lrp: low and high belong to the box rule, which {preset!r} does not have"
        )
    return replace(
        base,
        conv=tune(base.conv),
        linear=tune(base.linear),
        first=tune(base.first),
        init=base.init if init == "logit" else init,
        pool=base.pool if pool == "winner" else pool,
        unknown=base.unknown if unknown == "error" else unknown,
        through=_several(through) or base.through,
        hold=_several(hold) or base.hold,
    )


def _several(sites: str | tuple[str, ...]) -> tuple[str, ...]:
    return (sites,) if isinstance(sites, str) else sites


@method("lrp", sites="input", regime=regime)
def lrp(
    relevance: Tensor,
    *,
    preset: str | Preset = "auto",
    init: Literal["logit", "one", "softmax-contrast", "clrp"] = "logit",
    epsilon: Spread | None = None,
    gamma: Spread | None = None,
    low: float | None = None,
    high: float | None = None,
    bias: bool = True,
    pool: Literal["winner", "unpool-overwrite"] = "winner",
    unknown: Literal["error", "gradient"] = "error",
    through: str | tuple[str, ...] = (),
    hold: str | tuple[str, ...] = (),
    channels: bool = False,
) -> Tensor:
    """Relevance summed over channels; signed, its total the part of the score that was kept.

    preset   a Preset, or one of epsilon, epsilon_plus, epsilon_alpha2_beta1, epsilon_gamma_box,
             epsilon_gamma_wsquare, epsilon_plus_flat, epsilon_alpha2_beta1_flat,
             excitation_backprop, gamma_hold, attnlrp, cplrp, chefer, lrp0, auto
    init     R at the start: the score; 1; the class against the softmax of the others, or
             against all of them alike (clrp)
    low, high  the range of the input, for the box rule
    bias     False leaves biases out of every denominator, so that no relevance ends in them
    pool     `unpool-overwrite` loses relevance where windows overlap, as max_unpool does
    unknown  `gradient` lets ops without a rule hand on their plain gradient
    through  a channel or head, or several: `features.10[17]`; relevance passes there alone
    hold     sites of gates, or several: `**:gate`, `sub_blocks3.*.gate`; in a product with another
             value they take no relevance, where factors otherwise share alike
    channels  a map of each channel instead of their sum
    Raises NoRule for an op that no rule speaks of.
    """
    return relevance if channels else relevance.sum(1)

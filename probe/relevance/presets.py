"""Presets of relevance: which rule each kind of op follows, as data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from ..errors import OptionError, near
from ..ops import kind_of
from .linear_rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    LinearRule,
    PositiveGamma,
    WSquare,
    ZBox,
    ZPlus,
)

if TYPE_CHECKING:
    from ..ops import OpRecord


@dataclass(frozen=True)
class Preset:
    """Rules by kind of op.

    conv, linear  rules; None is the plain gradient, LRP-0
    first         the rule of first layers: each convolution or linear layer that the input reaches
                  without passing another; `first_linear` says whether linear ones count
    last          the rule of last layers, from which the output is reached without another
    fold          whether a batch norm joins the linear map before it
    norms         `hold` takes a lone batch norm's statistics as constants, `pass` hands R on
    attention     `hold` the map; `attnlrp`; `stepwise` halves both products and passes R through
                  the softmax and the norms
    weightlike    kinds whose results, in a product with another value, take no relevance
    residual      a sum shares by values, or first by the size of each summand's total
    init          `logit`: R starts as the score; `one`; `softmax-contrast`: against the
                  softmax of the other classes; `clrp`: against all others alike (Gu et al. 2018)
    sites         rules for ops by name or inside modules of a path, wildcards allowed, first match
                  wins
    through       channels or heads, `features.10[17]`: relevance passes that site only there
    hold          sites of gates, `**:gate`: in a product with another value they take no relevance
    """

    name: str
    conv: LinearRule | None = None
    linear: LinearRule | None = None
    first: LinearRule | None = None
    first_linear: bool = True
    last: LinearRule | None = None
    fold: bool = True
    norms: Literal["hold", "pass"] = "hold"
    attention: Literal["hold", "attnlrp", "stepwise"] = "hold"
    weightlike: frozenset[str] = frozenset({"softmax", "statistic", "gate"})
    residual: Literal["values", "renormalised"] = "values"
    pool: Literal["winner", "unpool-overwrite"] = "winner"
    unknown: Literal["error", "gradient"] = "error"
    init: Literal["logit", "one", "softmax-contrast", "clrp"] = "logit"
    sites: tuple[tuple[str, LinearRule | None], ...] = ()
    through: tuple[str, ...] = ()
    hold: tuple[str, ...] = ()

    def rule(
        self, kind: str, op: OpRecord, *, first: bool = False, last: bool = False
    ) -> LinearRule | None:
        """The rule of a linear op."""
        path = op.place.partition(" in ")[2]
        for pattern, rule in self.sites:
            if fnmatchcase(path, pattern) or fnmatchcase(op.name, pattern):
                return rule
        if first and self.first is not None and (kind == "conv" or self.first_linear):
            return self.first
        if last and self.last is not None:
            return self.last
        return self.conv if kind == "conv" else self.linear


_CNN = Preset("", linear=Epsilon(), norms="pass")
PRESETS: dict[str, Preset] = {
    p.name: p
    for p in (
        Preset("epsilon", Epsilon(), Epsilon()),
        Preset("lrp0"),
        replace(_CNN, name="epsilon_plus", conv=ZPlus()),
        replace(_CNN, name="epsilon_alpha2_beta1", conv=AlphaBeta()),
        replace(
            _CNN, name="epsilon_gamma_box", conv=Gamma(), first=ZBox(-3, 3), first_linear=False
        ),
        replace(
            _CNN,
            name="epsilon_gamma_wsquare",
            conv=PositiveGamma(),
            first=WSquare(),
            first_linear=False,
        ),
        replace(_CNN, name="epsilon_plus_flat", conv=ZPlus(), first=Flat()),
        replace(_CNN, name="epsilon_alpha2_beta1_flat", conv=AlphaBeta(), first=Flat()),
        Preset("excitation_backprop", ZPlus(), ZPlus(), norms="pass"),
        Preset("gamma_hold", Gamma(0.25), Gamma(0.05)),
        Preset("attnlrp", attention="attnlrp", weightlike=frozenset({"statistic"})),
        Preset(
            "chefer",
            ZPlus(1e-9, bias=False),
            ZPlus(1e-9, bias=False),
            norms="pass",
            attention="stepwise",
            weightlike=frozenset({"statistic"}),
            residual="renormalised",
            init="one",
        ),
        Preset("cplrp", weightlike=frozenset({"softmax", "statistic", "gate", "pass"})),
    )
}


def preset(name: str) -> Preset:
    """The preset of that name. Raises OptionError with near names."""
    if name not in PRESETS:
        raise OptionError(
            f"relevance preset {name!r} is unknown (there are: auto, {', '.join(PRESETS)})"
            f"{near(name, PRESETS)}"
        )
    return PRESETS[name]


def settled(asked: Preset, ops: list[OpRecord]) -> Preset:
    """The preset itself; in place of `auto` what we recommend, with what else was asked."""
    if asked.name != "auto":
        return asked
    kept = ("init", "pool", "unknown", "sites", "through", "hold")
    return replace(recommended(ops), **{name: getattr(asked, name) for name in kept})


def recommended(ops: list[OpRecord]) -> Preset:
    """`auto`: what we recommend for the network at hand.

    Networks with attention take gamma_hold: small gammas damp the cancelling terms that plain
    gradient x input is full of, and a held map conserves. Others take epsilon_plus_flat: z+ in
    the convolutions stays readable at any depth, and flat keeps the colours of single pixels out;
    without biases, which swallow nearly everything in deep networks with batch norm
    (EfficientNet-Lite0 on a photo: 0.0005 of the score arrives with them, 0.05 without; the rest
    belongs to negative outputs without a positive contribution, and the ledger names the ops).
    """
    if any(kind_of(op.name) in ("attention", "softmax", "mixer") for op in ops):
        return replace(PRESETS["gamma_hold"], name="auto")
    base = PRESETS["epsilon_plus_flat"]
    return replace(base, name="auto", conv=ZPlus(bias=False), linear=Epsilon(bias=False))

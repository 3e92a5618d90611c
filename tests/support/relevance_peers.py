"""What zennit and captum call a set of rules, and what it is called here."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

import limelight as ll
from limelight.probe.relevance.linear_rules import Epsilon, PositiveGamma, PositiveWeights
from limelight.probe.relevance.presets import Preset

ZENNIT = ("alexnet", "resnet18", "vgg11_bn", "vgg16")
ZENNIT_COMPOSITES = (
    *("epsilon_plus", "epsilon_alpha2_beta1", "epsilon_gamma_box"),
    *("epsilon_plus_flat", "epsilon_alpha2_beta1_flat"),
    *("epsilon_plus.eps0.25", "epsilon_plus.zero_bias", "excitation_backprop"),
    *("guided_backprop", "deconvnet"),
)
CAPTUM = {
    "default": Preset("a", Epsilon(1e-9), Epsilon(1e-9)),
    "eps0.1": Preset("a", Epsilon(0.1), Epsilon(0.1)),
    "composite": Preset("a", PositiveGamma(), Epsilon(1e-6)),
    "alpha1beta0": Preset("a", PositiveWeights(), Epsilon(1e-9)),
}


def zennit_spec(composite: str, low: float, high: float) -> str:
    """The words of `lrp` that mean a composite of zennit, for pixels within [low, high]."""
    name, _, change = composite.partition(".")
    words = f"lrp:{name},init=one"
    if "box" in name:
        words += f",low={low},high={high}"
    return words + {"": "", "eps0.25": ",epsilon=0.25", "zero_bias": ",bias=false"}[change]


def zennit_regime(composite: str, low: float, high: float) -> Any:
    """What the probe calls a composite of zennit."""
    plain = {"guided_backprop": "guided", "deconvnet": "deconv"}
    return plain.get(composite) or ll.use(zennit_spec(composite, low, high)).regime


def relevance(net: nn.Module, x: Any, target: Any, regime: Any, *sites: str) -> dict[str, Tensor]:
    """Relevance, or gradients, with all their dimensions at some sites, by address."""
    found: dict[str, Tensor] = {}
    with ll.Probe(net, relevance=True) as p:
        p.watch(*sites)
        p(**x) if isinstance(x, dict) else p(x)
        p.differentiate(
            target,
            p.values(),
            lambda v, r: found.update({str(v.site): r.detach()}),
            regime=regime,
        )
    return found

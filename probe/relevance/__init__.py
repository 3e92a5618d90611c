"""One backward by rules: linear rules, op rules, assignment, presets, ledger."""

from .ledger import Entry, Ledger
from .linear_map import LinearMap
from .linear_rules import (
    Epsilon,
    Gamma,
    LinearRule,
    PositiveGamma,
    PositiveWeights,
    ZBox,
    ZPlus,
    ratio,
)
from .presets import Preset, preset
from .propagate import propagate

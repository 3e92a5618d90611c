"""Scores of attention heads, one a file; importing them registers them."""

from . import (
    acdc,
    activation_patching,
    attribution_patching,
    code_attribution,
    discrete_sae,
    edges,
    label_statistics,
)
from .activation_patching import ablation

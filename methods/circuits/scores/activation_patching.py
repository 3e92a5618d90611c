"""What happens when a head's output is exchanged: ablations and activation patching, head by head.

Many copies of a group of pairs run together, each with another head exchanged. What lies before
the exchanged layer is not computed again: its layers answer with what they gave before.
"""

from __future__ import annotations

from ....probe.attribution import Natural
from ..evidence import Evidence
from ..interventions import By, exchanged_score, replacement
from ..score import Score, circuit_method


@circuit_method("ablation", needs=("activations", "model"))
def ablation(evidence: Evidence, *, by: By = "resample", pairs: Natural = 0) -> Score:
    """The metric that is lost when one head's output is exchanged on the clean input.

    by     zero; mean over all tokens of the corrupt inputs; or resample, the head's output on the
           corrupt input of the same pair
    pairs  how many of the pairs are run; 0 for all
    (metric clean - metric exchanged) / (mean metric clean - mean metric corrupt), by pair; the
    score is |mean|. Exact, one forward for every pair and head; blind to heads that stand in for
    one another.
    """
    return exchanged_score(evidence, "clean", replacement(evidence, by), pairs)


@circuit_method("activation_patching", needs=("activations", "model"))
def activation_patching(evidence: Evidence, *, pairs: Natural = 0) -> Score:
    """The metric that comes back when one head's clean output enters the corrupt run.

    (metric patched - metric corrupt) / (mean metric clean - mean metric corrupt), by pair; the
    score is |mean|. Finds heads that suffice, where ablation finds heads that are needed.
    pairs  how many of the pairs are run; 0 for all
    """
    return exchanged_score(evidence, "corrupt", evidence.clean.z, pairs)

"""Scores of maps under one registry; beside them sanity checks, and scores of scanpaths."""

from . import complexity, faithfulness, localisation, scanpath, spectrum
from .exact_tokens import OfTokens, exact_shares, exact_tokens
from .faithfulness import deletion_curve, insertion_curve, region_drops
from .multimatch import MultiMatch, multimatch
from .perturbed_scores import Scorer
from .randomisation import (
    Change,
    cascade,
    class_sensitivity,
    completeness,
    random_logit,
    randomised,
)
from .registry import (
    BoundMetric,
    Metric,
    MetricSpec,
    flat,
    interval,
    list_metrics,
    metric,
    use_metric,
)
from .reidentification import Retrieval, cosine_distances, retrieval
from .scanpath import (
    SHELVES,
    Behaviour,
    Shelf,
    behaviour,
    behaviour_delta,
    fixation_map,
    from_foci,
    levenshtein,
    mean_behaviour,
    nss,
    sequence_score,
    sim,
)
from .similarity import pearson, spearman, ssim
from .smooth import smooth
from .spectrum import frequencies, power_spectrum, radial_spectrum

"""Scores of maps under one registry."""

from .perturbed_scores import Scorer
from .registry import Asked, flat, interval, list_metrics, use_metric
from .similarity import pearson, spearman, ssim
from .smooth import smooth

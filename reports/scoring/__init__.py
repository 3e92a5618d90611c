"""Scores of the maps of a run."""

from .baselines import NAMES, seen
from .score import LEAST, PAIRED, score

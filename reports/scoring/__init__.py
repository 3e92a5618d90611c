"""Scores of the maps of a run."""

from .annotations import data_of
from .baselines import NAMES, seen
from .score import LEAST, PAIRED, refresh, score

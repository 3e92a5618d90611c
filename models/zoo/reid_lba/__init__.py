"""Re-identification of people with a gate behind some blocks of a ResNet, and where to put it."""

from .pair import SimilarityOfTwo
from .search import Located, effects, pareto_front, search, slow_down

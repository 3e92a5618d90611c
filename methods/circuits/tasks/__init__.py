"""Tasks of circuits: prompts in pairs, made or read."""

from .pairs import Group, Pair, Pairs
from .task import list_tasks, picture_pairs, task

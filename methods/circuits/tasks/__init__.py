"""Tasks of circuits: prompts in pairs, made or read."""

from . import induction, sentences
from .pairs import Pair, PairBatch, Pairs
from .prompts import Prompt
from .registry import TaskMaker, list_tasks, task_maker
from .task import picture_pairs, solved, task

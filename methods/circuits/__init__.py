"""Circuits: which attention heads do the work of a task, with the controls beside the methods."""

from . import scores
from .circuit import Circuit, circuit
from .score import CircuitScore, Score, circuit_method

"""Weights from anywhere, fitted strictly."""

from .download import fetch
from .fingerprint import fingerprint
from .load import Chosen, choose, fit, no_init, told
from .state_files import read_state

"""Weights from anywhere, fitted strictly."""

from .download import fetch
from .fingerprint import fingerprint
from .load import Chosen, choose, fit, hyper_from_file, no_init
from .state_files import read_state

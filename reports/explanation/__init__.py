"""Explanations of single inputs, and their page."""

from .contents import Guess, Photo
from .explain import explain
from .explanation import Explanation
from .page import SCRIPTS, render
from .page_data import page_data, photo_uri

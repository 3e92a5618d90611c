"""Explanations of single samples, and their page."""

from .contents import Areas, Guess, Photo, Sample
from .explain import explain
from .explanation import Explanation
from .page import SCRIPTS, render
from .page_data import page_data, photo_uri

"""Explanations of single samples, and their page."""

from .contents import Areas, Curve, FigureRow, Guess, MixerFigure, Photo, Sample
from .explain import explain
from .explanation import Explanation
from .figures_page import Table, render_figures
from .listed_samples import by_input, place_of, show
from .page import SCRIPTS, render, seen_beside
from .page_data import page_data, photo_uri
from .samples import Samples
from .thumbnails import thumbnails

"""What the dimensions of values mean, read off the graph that made them."""

from .layout import Grid, Layout, find_grid
from .module_rules import tells_axes
from .value_axes import Declared, Known, ValueAxes

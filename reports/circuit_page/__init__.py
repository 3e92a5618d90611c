"""The page of a circuit."""

from .page import check_sizes, circuit_report
from .text import head_name

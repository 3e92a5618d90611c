"""A method by name, its options, and what it reads of a forward."""

from .heads import Heads, asked_sites, heads_of, measured, token_ids, watched
from .options import convert
from .path import Path
from .registry import (
    Bound,
    Method,
    circuit_method,
    head_method,
    list_methods,
    method,
    pass_method,
    path_method,
    use,
)
from .site_maps import RAW, Job, Reading, Verdict, gather, jobs_at, needed, results

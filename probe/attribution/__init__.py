"""A method by name, its options, and what it reads of a forward."""

from .aliases import (
    Axes,
    Data,
    Inputs,
    MethodLike,
    MethodName,
    Methods,
    Output,
    Picture,
    Pictures,
    Sites,
    TargetLike,
    Targets,
)
from .heads import Heads, asked_sites, heads_of, measured, token_ids, watched
from .named import Bound, Named, Registry, listed
from .options import (
    Count,
    Natural,
    Positive,
    Range,
    Share,
    Spread,
    TensorOption,
    bare_name,
    convert,
    in_range,
    options_of,
    positional,
    split_spec,
)
from .path import Line, Path, Points
from .registry import (
    METHODS,
    BoundMethod,
    Method,
    MethodSpec,
    bound_methods,
    head_method,
    list_methods,
    method,
    pass_method,
    path_method,
    use,
)
from .site_maps import (
    RAW,
    MethodAtSite,
    Owned,
    RawMap,
    ScoredTarget,
    gather,
    mappable,
    methods_at,
    needed,
    passed_over,
    results,
)

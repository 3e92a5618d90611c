"""What is explained: one scalar a sample."""

from .class_scores import Of, by_name, scores
from .parse import class_in, target_in, value_in
from .target import (
    Target,
    contrast,
    label,
    margin,
    pixel,
    ranked,
    region,
    similar,
    targets,
    token,
    top,
)

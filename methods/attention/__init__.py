"""Methods that read attention maps: rollout, attribution, locality, heads of sequences."""

from .locality import upstream_nonlocality

"""Methods that read attention maps: rollout, attribution, locality, heads of sequences."""

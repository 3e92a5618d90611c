"""Sparsifiner: attention over the few keys that a low-rank predictor picks for each query."""

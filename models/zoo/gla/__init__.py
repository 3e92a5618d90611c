"""Language models on gated linear attention."""

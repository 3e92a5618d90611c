"""FFNet of simple segmentation: a residual network, and all its scales in every pixel."""

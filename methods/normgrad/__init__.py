"""NormGrad: the norm of the spatial contribution to a weight gradient."""

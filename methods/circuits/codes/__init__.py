"""Discrete codes of head outputs: autoencoders, quantisation and scores of code sets."""

from .quantise import Kind, centroids, coder, compact, residual_coordinates
from .sae import SharedSae, dead_share, fit
from .sae_options import Dead, Options
from .set_scores import diversity, edge_score, node_score, unique_to_negative, upstream_edge_nodes

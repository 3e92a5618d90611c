"""ULSAM, attention over subspaces of channels, and the MobileNets that carry it."""

from .module import ULSAM, Subspace

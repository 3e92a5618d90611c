"""Neighbourhood attention in one to three dimensions, with dilation, stride and causality."""

from .reference import neighborhood_attention

"""The page of a neighbourhood: which tiles of keys a kernel visits."""

from .page import TileVisits, tile_visits

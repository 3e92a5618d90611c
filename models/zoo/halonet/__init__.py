"""HaloNet and its byobnet relatives."""

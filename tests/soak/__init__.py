"""Trials in numbers, too many for a test: see `python -m soak`."""

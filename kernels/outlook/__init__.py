"""Outlook attention: weights of a small window that each place predicts from itself."""

from .reference import outlook, window_tokens

__all__ = ["outlook", "window_tokens"]

"""Outlook attention: weights of a small window that each place predicts from itself."""

from .reference import outlook

__all__ = ["outlook"]

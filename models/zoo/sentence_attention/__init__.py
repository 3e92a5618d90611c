"""Sentence attention: a question's words choose the channels that a grounding mask is read from."""

from .model import SentenceAttention, SentenceGrounding
from .sentences import HashedSentences

__all__ = ["HashedSentences", "SentenceAttention", "SentenceGrounding"]

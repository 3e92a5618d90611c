"""Transformers of attention alone, with the induction model that ships."""

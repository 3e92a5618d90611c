"""Token mixers as ops: torch reference, Triton path, relevance and mixing map under one name."""

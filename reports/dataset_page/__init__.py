"""The page of a run over a data set."""

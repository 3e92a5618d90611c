"""The page of recall: who answers, at which gap, and whether the map points at the answer."""

from .measures import ModelRecall, QueryRows, query_rows, recalled
from .page import recall_report

"""A process that examines one architecture after another, told by lines on its input."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Mapping

import torch

from .case import Case, Skipped, first_that_runs, sentence
from .examine import examine
from .row import Row


def work(cases: Mapping[str, Case]) -> None:
    """Rows as lines, one after every stage; what models print goes to the error stream."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    answers.write("ready\n")
    for line in sys.stdin:
        case = cases[line.strip()]
        start = time.process_time()
        row = Row(case.source, case.family, case.name)

        def tell(stage: str, row: Row = row, start: float = start) -> None:
            row.stage, row.seconds = stage, time.process_time() - start
            answers.write(row.line() + "\n")

        try:
            torch.manual_seed(0)
            row.fed, model, x = first_that_runs(case)
            examine(row, model, x, tell)
        except Skipped as error:
            row.reason = str(error)
            tell("skipped")
        except Exception as error:
            row.faults.append(f"{row.stage}: {sentence(error)}")
        answers.write(row.line() + "\n")
        answers.write("next\n")

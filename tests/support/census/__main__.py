"""`make census`: every architecture in a process that can be killed; writes docs/census.md."""

from __future__ import annotations

import argparse
from fnmatch import fnmatchcase
from pathlib import Path

from .case import Case
from .huggingface import huggingface_cases
from .pictures import timm_cases, torchvision_cases
from .pool import run
from .table import page
from .worker import work


def cases() -> dict[str, Case]:
    """Every architecture of the census by its source and name."""
    found = [*torchvision_cases(), *timm_cases(), *huggingface_cases()]
    return {case.key: case for case in found}


def main() -> None:
    parser = argparse.ArgumentParser(prog="census", description=__doc__)
    parser.add_argument("page", nargs="?", type=Path, help="where the table is written")
    parser.add_argument("--log", type=Path, default=Path("census.jsonl"), help="rows as they come")
    parser.add_argument("--only", default="*", help="wildcards of what to examine: 'timm vit*'")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        work(cases())
        return
    keys = [key for key in cases() if fnmatchcase(key, asked.only)]
    rows = run(keys, asked.log, asked.processes)
    if asked.page is not None:
        asked.page.parent.mkdir(exist_ok=True)
        asked.page.write_text(page(rows))


if __name__ == "__main__":
    main()

"""Writes timm.txt, one line an architecture: its module, its smallest variant, and its input size.

Variants count as one architecture where the same module builds them of the same types of layers.
They are built without memory, on the meta device; run again when timm is updated:
`python -m census.timm_families` in tests/support.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from foreign import import_foreign, import_torchvision


def main() -> None:
    import_torchvision()
    timm = import_foreign("timm")
    rows: dict[tuple[str, frozenset[str]], tuple[int, str, int]] = {}
    for name in timm.list_models():
        try:
            with torch.device("meta"):
                model = timm.create_model(name)
        except Exception as error:
            print(f"{name}: {error}")
            continue
        key = (_module_of(timm, name), frozenset(type(m).__name__ for m in model.modules()))
        size = sum(p.numel() for p in model.parameters())
        row = (size, name, model.default_cfg.get("input_size", (3, 224, 224))[-1])
        rows[key] = min(row, rows.get(key, row))
    lines = [f"{module} {name} {side}" for (module, _), (_, name, side) in rows.items()]
    head = f"# timm {timm.__version__}, written by timm_families.py: module, variant, input size"
    Path(__file__).with_name("timm.txt").write_text("\n".join([head, *sorted(lines)]) + "\n")


def _module_of(timm: Any, name: str) -> str:
    return timm.model_entrypoint(name).__module__.rpartition(".")[2]


if __name__ == "__main__":
    main()

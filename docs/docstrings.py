"""Docstrings as pages show them: a block of `name   what it means` becomes a list."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

ENTRY = re.compile(r"^(\S[^\n]*?)  +(\S.*)$")


def as_list(text: str) -> str:
    """Lines of a name, two spaces or more and its meaning, as a list; the rest as it is."""
    lines: list[str] = []
    inside = fenced = False
    for line in text.splitlines():
        fenced ^= line.lstrip().startswith("```")
        entry = None if fenced else ENTRY.match(line)
        if entry:
            if not inside:
                lines.append("")
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        elif inside and line.startswith("  "):
            lines.append("  " + line.strip())
        elif inside and line.strip():
            lines += ["", line]
        else:
            lines.append(line)
        inside = bool(entry) or (inside and line.startswith("  "))
    return "\n".join(lines)


class Entries(Extension):
    """Rewrites every docstring before its page is made."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            text = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
            obj.docstring.value = as_list(text)

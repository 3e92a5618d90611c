"""One self-contained HTML document: templates filled, parts embedded, a policy by hash."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files

from .formatting import sentence


def fill(
    name: str,
    styles: Sequence[str],
    scripts: Sequence[str],
    data: object,
    *,
    cautions: Sequence[str] = (),
    **values: object,
) -> str:
    """A page from its parts; its policy lets this style and this script run, and nothing else.

    name      of the template that the values are filled into, beside policy, style, script and data
    styles    and scripts, by the names of their files
    cautions  why what the page shows means little, in large letters on top
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    style = "\n".join(_part(part) for part in styles)
    script = "'use strict';\n" + "\n".join(_part(part) for part in scripts)
    environment = Environment(
        loader=FunctionLoader(_part),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(name).render(
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        data=Markup(embed(data)),
        cautions=[sentence(words) for words in cautions],
        **values,
    )
    return text.encode("utf-8", "replace").decode("utf-8")


def embed(data: object) -> str:
    """JSON that is safe inside a script element: no `<`, no `&`, no character beyond ASCII."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _part(name: str) -> str:
    return files("limelight.reports.html").joinpath("templates", name).read_text(encoding="utf-8")

"""One self-contained page for an explanation: no network, nothing from outside runs."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha256
from importlib.resources import files
from typing import Any

from ..probe.results import About
from .data import page_data, photo_uri
from .explanation import Explanation
from .waterfall import waterfalls

SCRIPTS = ("paint.js", "choice.js", "show.js", "page.js")
_MOST_NAMED = 4


def render(explanation: Explanation) -> str:
    """The page as text, to be written as UTF-8."""
    data = page_data(explanation)
    return fill(
        "page.html",
        ("page.css",),
        SCRIPTS,
        data,
        title=_title(explanation),
        asked=_asked(explanation, data),
        samples=data["samples"],
        photos={p.sample: photo_uri(p) for p in reversed(explanation.photos)},
        waterfalls=waterfalls(explanation.ledgers),
        provenance=provenance(explanation),
    )


def fill(
    name: str, styles: Sequence[str], scripts: Sequence[str], data: object, **words: object
) -> str:
    """A page from its parts; its policy lets this style and this script run, and nothing else."""
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
        **words,
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
    return files(__package__).joinpath("page", name).read_text(encoding="utf-8")


def _models(explanation: Explanation) -> list[str]:
    return list(dict.fromkeys(a.model for a in _abouts(explanation) if a.model))


def _title(explanation: Explanation) -> str:
    models = _models(explanation)
    return explanation.title or f"What {_listed(models) if models else 'the model'} looks at"


def _asked(explanation: Explanation, data: dict[str, Any]) -> str:
    """The question in one sentence: methods, sites, targets, samples."""
    if not data["maps"]:
        return "No maps were computed."
    sites = data["sites"]
    where = f"at {sites[0]}" if len(sites) == 1 else f"at {len(sites)} layers"
    count = len(data["samples"])
    targets = _listed(data["targets"])
    samples = "one sample" if count == 1 else f"{count} samples"
    return f"{_listed(data['methods'])} {where}, for {targets}, on {samples}."


def _listed(words: list[str]) -> str:
    if len(words) > _MOST_NAMED:
        return f"{', '.join(words[:3])} and {len(words) - 3} more"
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _abouts(explanation: Explanation) -> list[About]:
    own = dict.fromkeys(m.about for m in explanation.maps)
    return [explanation.about, *own] if explanation.about else list(own)


def provenance(explanation: Explanation) -> list[tuple[str, list[str]]]:
    """Rows of the table that says how to compute the page again; empty rows are dropped."""
    abouts = _abouts(explanation)
    options: dict[str, None] = {}
    for m in explanation.maps:
        if m.about.options:
            options[f"{m.method}: {', '.join(' = '.join(pair) for pair in m.about.options)}"] = None
    rows = {
        "Model": (a.model for a in abouts),
        "Weights": (a.weights for a in abouts),
        "Preprocessing": (a.preprocessing for a in abouts),
        "Options": options,
        "Seed": (str(a.seed) for a in abouts),
        "Type": (a.dtype for a in abouts),
        "Versions": (f"{name} {number}" for a in abouts for name, number in a.versions),
        "Computed": _period(a.created for a in abouts),
        "Notes": (note for a in abouts for note in a.notes),
        "Left out": (f"{name}: {reason}" for name, reason in explanation.skipped),
    }
    named = [(name, list(dict.fromkeys(filter(None, words)))) for name, words in rows.items()]
    return [(name, words) for name, words in named if words]


def _period(times: Iterable[str]) -> list[str]:
    """Many times of computing as the first and the last."""
    known = sorted(set(filter(None, times)))
    return known if len(known) < 2 else [f"{known[0]} to {known[-1]}"]

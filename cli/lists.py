"""`limelight models` and `limelight methods`: what there is."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer

if TYPE_CHECKING:
    from ..probe.attribution.registry import Method

MODELS_EPILOG = '\b\nExamples:\n  limelight models\n  limelight models "resnet*"'
METHODS_EPILOG = '\b\nExamples:\n  limelight methods normgrad\n  limelight methods "*cam*"'
_WITH_OPTIONS = 110  # columns that the methods' table needs to show the options too


def models(
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Wildcards: * and ?.")] = "*",
) -> None:
    """List the zoo; a single model with its hyper-parameters."""
    from ..models import list_models
    from ..models.card import sides
    from ..models.registry import PREPROCESSING, hyper_parameters
    from .terminal import console_for, new_table

    cards = list_models(pattern)
    table = new_table("name", "size", "weights", "paper")
    for card in cards:
        size = " x ".join(str(side) for side in dict.fromkeys(sides(card.size)))
        table.add_row(card.name, size, ", ".join(card.weights) or "none", card.paper)
    console = console_for()
    console.print(table)
    if len(cards) == 1:
        defaults = [f"  {name}={value}" for name, value in hyper_parameters(cards[0].name).items()]
        also = f"  and {', '.join(PREPROCESSING)}"
        console.print("\n".join([*filter(None, [cards[0].about]), "--set takes", *defaults, also]))


def methods(
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Wildcards: * and ?.")] = "*",
    detail: Annotated[bool, typer.Option("--detail", help="Whole descriptions.")] = False,
) -> None:
    """List the methods; a single one with its whole description."""
    from ..probe.attribution.registry import find, list_methods
    from .terminal import console_for, new_table

    matches = list_methods(pattern) or (find(pattern),)
    console = console_for()
    if detail or len(matches) == 1:
        console.print("\n\n".join(_described(method) for method in matches))
        return
    roomy = console.width >= _WITH_OPTIONS
    table = new_table("name", "kind", "reads", *(["options"] * roomy), "what it shows")
    for method in matches:
        options = [", ".join(_options(method))] * roomy
        table.add_row(method.name, method.kind, method.sites, *options, method.summary)
    console.print(table)
    if not roomy:
        console.print("Options: limelight methods NAME, or --detail.")


def _described(method: Method) -> str:
    import inspect

    head = f"{method.name}: a {method.kind} method; reads at {method.sites} unless told"
    options = "".join(f"\n  {option}" for option in _options(method))
    doc = inspect.getdoc(method.function) or ""
    return f"{head}{options}\n\n" + "\n".join(f"  {line}".rstrip() for line in doc.splitlines())


def _options(method: Method) -> list[str]:
    return [
        f"{name}: {_type(option.annotation)} = {_value(option.default)}"
        for name, option in method.options.items()
    ]


def _type(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        return _type(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return "|".join(str(choice) for choice in get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return " | ".join("None" if part is type(None) else _type(part) for part in get_args(hint))
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _value(value: object) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value) or "''"

"""Tasks by name: generators of prompt pairs, options read from the signature.

    @task_maker("shout", of="logit")
    def shout(draw: random.Random, tokenizer: Tokenizer, *, loud: bool = True) -> Iterator[Prompt]:
        while True:
            yield Prompt("clean text", "corrupt text", (" right",), (" wrong",))

A maker never ends: `task` takes as many as it needs, tokenises them and leaves out repeats and what
does not align. Where it makes ids itself, it yields `Pair`s.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, get_type_hints

from ....probe.attribution import convert
from ....probe.entry_points import load_group
from ....probe.errors import MethodError, OptionError, near
from ....probe.targets import Of
from .pairs import Pair
from .prompts import Prompt

Generator = Callable[..., Iterator[Prompt | Pair]]


@dataclass(frozen=True)
class Maker:
    """A registered task.

    text   whether it writes prompts and so needs a tokenizer; else a vocabulary's size will do
    """

    name: str
    function: Generator
    of: Of
    text: bool

    @property
    def options(self) -> Mapping[str, inspect.Parameter]:
        """The typed keywords, in order; the first is what `name:variant` sets."""
        parameters = inspect.signature(self.function).parameters
        return {n: p for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def read(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options with text read as their types. Raises OptionError."""
        hints = get_type_hints(self.function)
        for key in given:
            if key not in self.options:
                known = ", ".join(self.options) or "none"
                hint = near(key, self.options)
                raise OptionError(
                    f"task {self.name!r} has no option {key!r} (it has: {known}){hint}"
                )
        return {k: convert(self.name, k, v, hints.get(k)) for k, v in given.items()}


_makers: dict[str, Maker] = {}


def task_maker(
    name: str, *, of: Of = "logit", text: bool = True
) -> Callable[[Generator], Generator]:
    """Register the generator below as a task: `f(draw, tokenizer, **options)` yields prompts."""

    def register(function: Generator) -> Generator:
        held = _makers.get(name)
        if held is not None and held.function.__module__ != function.__module__:
            raise MethodError(
                f"task {name!r} is registered by {held.function.__module__} and again by "
                f"{function.__module__}; rename one of them"
            )
        _makers[name] = Maker(name, function, of, text)
        return function

    return register


def list_tasks(pattern: str = "*") -> tuple[Maker, ...]:
    """The registered tasks whose names match, sorted by name."""
    load_group("limelight.methods")
    return tuple(m for n, m in sorted(_makers.items()) if fnmatchcase(n, pattern))


def find(name: str) -> Maker | None:
    """The task of that name, if there is one."""
    if name not in _makers:
        load_group("limelight.methods")
    return _makers.get(name)


def split(spec: str) -> tuple[str, dict[str, str]]:
    """`induction:48` or `ioi,negatives=published` as a task's name and its options."""
    head, *words = [word.strip() for word in spec.split(",")]
    name, colon, variant = head.partition(":")
    found = find(name)
    if found is None:
        return name, {}
    given = {next(iter(found.options), "variant"): variant} if colon else {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise OptionError(f"{spec!r} sets an option by key=value, not by {word!r}")
        given[key] = value
    return name, given


def unknown(name: str) -> MethodError:
    """The error for a name that is neither a task nor a file."""
    hint = near(name, _makers) or f"; the tasks are {', '.join(sorted(_makers))}"
    return MethodError(f"{name!r} is no task and no file of prompts{hint}")

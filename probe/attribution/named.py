"""Functions under names, with typed options: registered once, found, listed and bound.

Methods, metrics, tasks and scores of circuits are frozen dataclasses on `Named`, each kind in a
`Registry` of its own. All are written alike: `name`, `name:variant` for the first option,
`name,option=value` for any.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Generic, TypeVar

from ..entry_points import load_group
from ..errors import MethodError, OptionError, near
from .options import TensorOption, convert, options_of, split_spec, written


@dataclass(frozen=True)
class Named:
    """A function under a name; its typed keywords are its options.

    noun       what errors call one of its kind
    decorator  what registers one: `limelight.<decorator>`
    common     options that all of its kind have beside their own
    """

    name: str
    function: Callable[..., Any]

    noun: ClassVar[str] = "function"
    decorator: ClassVar[str] = ""
    common: ClassVar[tuple[str, ...]] = ()

    @property
    def options(self) -> Mapping[str, inspect.Parameter]:
        """The typed keywords, in order; the first is what `name:variant` sets."""
        return options_of(self.function)

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def read(self, words: Iterable[str]) -> dict[str, str]:
        """Options as text from `key=value`; `=value` sets the first. Raises OptionError."""
        options, texts = self.options, dict[str, str]()
        for word in words:
            key, equals, text = (part.strip() for part in word.partition("="))
            if not equals:
                raise OptionError(
                    f"{self.noun} {self.name!r} sets an option by key=value, not by {word!r}"
                    f"{self._known(key)}"
                )
            if not key and not options:
                raise OptionError(f"{self.noun} {self.name!r} has no option to set to {text!r}")
            key = key or next(iter(options))
            if key in texts:
                raise OptionError(f"{self.noun} {self.name!r} is given {key!r} twice: keep one")
            texts[key] = text
        self.check(texts)
        return texts

    def check(self, keys: Iterable[str]) -> None:
        """Raise OptionError for an option that this one does not have."""
        for key in keys:
            if key not in (*self.options, *self.common):
                raise OptionError(
                    f"{self.noun} {self.name!r} has no option {key!r}{self._known(key)}"
                )

    def _known(self, key: str) -> str:
        listed = ", ".join(self.options) or "none"
        return f" (it has: {listed}){near(key, [*self.options, *self.common])}"

    def convert(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Options checked against the signature, text read as their types. Raises OptionError."""
        self.check(given)
        options = self.options
        return {
            key: convert(self.name, key, value, options[key].annotation)
            if key in options
            else value
            for key, value in given.items()
        }

    def changes(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The converted options that differ from their defaults."""
        options = self.options
        values = self.convert(given).items()
        return {k: v for k, v in values if k in options and v != options[k].default}

    def label(self, changed: Mapping[str, Any]) -> str:
        """The name that results carry: `name:variant,key=value` of what differs from defaults."""
        first = next(iter(self.options), "")
        variant = changed.get(first)
        shown = f":{variant}" if isinstance(variant, str) else ""
        rest = (f",{k}={written(v)}" for k, v in changed.items() if not (shown and k == first))
        return self.name + shown + "".join(rest)


N = TypeVar("N", bound=Named)


@dataclass(frozen=True)
class Bound(Generic[N]):
    """A named function with its options set, under the name that results carry.

    options  those that differ from their defaults, sorted by name
    """

    named: N
    options: tuple[tuple[str, Any], ...] = ()
    text: str = field(default="", compare=False, kw_only=True)

    @property
    def name(self) -> str:
        return self.text or self.named.name

    def __call__(self, *args: Any) -> Any:
        given = {k: v.tensor if isinstance(v, TensorOption) else v for k, v in self.options}
        return self.named.function(*args, **given)


def listed(specs: Any) -> list[Any]:
    """One or several of what `Registry.resolve` takes, as a list."""
    single = isinstance(specs, (str, Named)) or callable(specs)
    return [specs] if single else list(specs)


class Registry(Generic[N]):
    """The functions of one kind by name, plug-ins of its entry-point groups among them."""

    def __init__(self, kind: type[N], *groups: str, hint: str = "") -> None:
        """`hint`: what an error says of a name that is like none."""
        self._kind, self._groups, self._hint = kind, groups, hint
        self._by_name: dict[str, N] = {}

    def add(self, new: N) -> N:
        """Register under a name of its own. Raises MethodError for another module's name."""
        held = self._by_name.get(new.name)
        if held is not None and held.function.__module__ != new.function.__module__:
            raise MethodError(
                f"{new.noun} {new.name!r} is registered by {held.function.__module__} and again "
                f"by {new.function.__module__}; rename one of them"
            )
        self._by_name[new.name] = new
        new.function.limelight = new  # type: ignore[attr-defined]
        return new

    def remove(self, name: str) -> None:
        """Forget a name, if it is known."""
        self._by_name.pop(name, None)

    def matching(self, pattern: str = "*") -> tuple[N, ...]:
        """Those whose names fit wildcards, sorted by name."""
        self._load()
        return tuple(n for name, n in sorted(self._by_name.items()) if fnmatchcase(name, pattern))

    def get(self, name: str) -> N | None:
        """The one of that name, if there is one."""
        if name not in self._by_name:
            self._load()
        return self._by_name.get(name)

    def find(self, name: str, *, also: Iterable[str] = ()) -> N:
        """The one of that name. Raises MethodError with near names, `also` among them."""
        named = self.get(name)
        if named is None:
            hint = near(name, [*self._by_name, *also]) or self._hint
            raise MethodError(f"{self._kind.noun} {name!r} is unknown{hint}")
        return named

    def resolve(
        self, spec: Any, options: Mapping[str, Any], *, also: Iterable[str] = ()
    ) -> tuple[N, dict[str, Any]]:
        """What text, a decorated function or one of the kind asks for, and its options so far.

        Raises MethodError, OptionError.
        """
        if isinstance(spec, str):
            name, words = split_spec(spec)
            named = self.find(name, also=also)
            return named, {**named.read(words), **options}
        given = spec if isinstance(spec, Named) else getattr(spec, "limelight", None)
        if not isinstance(given, self._kind):
            raise MethodError(
                f"{spec!r} is no {self._kind.noun}: give a name, or a function decorated with "
                f"@limelight.{self._kind.decorator}"
            )
        return given, dict(options)

    def _load(self) -> None:
        for group in self._groups:
            load_group(group)

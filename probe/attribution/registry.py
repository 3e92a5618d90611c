"""Methods by name: four shapes of plug-in, options read from the signature.

A site method is a pure function of what it names in its signature, for one site:

    @method("energy", sites="hidden")
    def energy(act, grad, *, power: float = 2.0): ...

`act` and `grad` arrive as `b c` and then the positions (`y x`, or `n` for tokens), in float32,
class tokens removed. `inputs` is the activation entering the module, `module` the module itself.
It returns `b` and the positions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, get_type_hints

from ..entry_points import load_group
from ..errors import MethodError, OptionError, near
from .options import convert, split_spec

NEEDS = ("act", "grad", "relevance", "inputs", "module")
Kind = Literal["site", "path", "pass", "heads", "circuit"]


@dataclass(frozen=True)
class Method:
    """A registered method: what it is called, what it needs, where it reads, its options."""

    name: str
    function: Callable[..., Any]
    kind: Kind
    sites: str
    regime: str | Callable[..., Any] = "plain"
    needs: tuple[str, ...] = ()

    @property
    def options(self) -> Mapping[str, inspect.Parameter]:
        """The typed keywords, in order; the first is what `name:variant` sets."""
        parameters = inspect.signature(self.function, eval_str=True).parameters
        return {n: p for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


@dataclass(frozen=True)
class Bound:
    """A method with its options set, under the name that results carry.

    sites  where it reads, whatever the call around it says; None to follow the call
    """

    method: Method
    options: tuple[tuple[str, Any], ...] = ()
    sites: str | tuple[str, ...] | None = None
    label: str = field(default="", compare=False)

    @property
    def regime(self) -> Any:
        """The backward it reads: a regime's name, or what its options make of one."""
        if isinstance(self.method.regime, str):
            return self.method.regime
        defaults = {n: p.default for n, p in self.method.options.items()}
        return self.method.regime(**{**defaults, **dict(self.options)})

    @property
    def name(self) -> str:
        return self.label or self.method.name

    def __call__(self, *args: Any) -> Any:
        return self.method.function(*args, **dict(self.options))


_methods: dict[str, Method] = {}


def method(
    name: str, *, sites: str = "hidden", regime: str | Callable[..., Any] = "plain"
) -> Callable[[Callable], Callable]:
    """Register a site method. `sites`: where it reads unless told, `hidden`, `last` or `input`.

    The positional parameters say what it needs: any of act, grad, relevance, inputs, module.
    A regime is a name, or a function from the method's options to one.
    """

    def register(function: Callable) -> Callable:
        needs = _positional(function)
        wrong = [n for n in needs if n not in NEEDS]
        if wrong or not needs:
            raise MethodError(
                f"method {name!r} takes {', '.join(wrong) or 'nothing'}; a site method "
                f"takes some of {', '.join(NEEDS)} and keywords"
            )
        return _add(Method(name, function, "site", sites, regime, needs))

    return register


def path_method(name: str, *, sites: str = "input") -> Callable[[Callable], Callable]:
    """Register a path method: `f(**options) -> Path`; equal paths share their passes."""
    return lambda function: _add(Method(name, function, "path", sites))


def pass_method(name: str, *, sites: str = "input") -> Callable[[Callable], Callable]:
    """Register a pass method: `f(runner, x, target, **options)`; it asks for its own passes."""
    return lambda function: _add(Method(name, function, "pass", sites))


def head_method(name: str, *, sites: str = "heads") -> Callable[[Callable], Callable]:
    """Register a metric of attention: `f(heads, **options)` gives one number a head, `b h`.

    heads   a `Heads`: statistics of the map, its rows, gates, token ids
    """
    return lambda function: _add(Method(name, function, "heads", sites))


def circuit_method(
    name: str, *, needs: tuple[str, ...] = ("activations",)
) -> Callable[[Callable], Callable]:
    """Register a score of heads: `f(evidence, **options)` gives one number a head, or a `Score`.

    evidence  a `limelight.methods.circuits.evidence.Evidence`
    needs     what it reads there, of `activations`, `gradient` and `model` (runs of its own)
    """
    return lambda function: _add(Method(name, function, "circuit", "heads", needs=needs))


def _positional(function: Callable) -> tuple[str, ...]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(n for n, p in inspect.signature(function).parameters.items() if p.kind in kinds)


def _add(new: Method) -> Callable:
    old = _methods.get(new.name)
    if old is not None and old.function.__module__ != new.function.__module__:
        raise MethodError(
            f"method {new.name!r} is registered by {old.function.__module__} and again by "
            f"{new.function.__module__}; rename one of them"
        )
    _methods[new.name] = new
    new.function.limelight = new  # type: ignore[attr-defined]
    return new.function


def list_methods(pattern: str = "*") -> tuple[Method, ...]:
    """The registered methods whose names match, sorted by name."""
    load_group("limelight.methods")
    return tuple(m for n, m in sorted(_methods.items()) if fnmatchcase(n, pattern))


def find(name: str) -> Method:
    """The method of that name. Raises MethodError with near names."""
    if name not in _methods:
        load_group("limelight.methods")
    if name not in _methods:
        raise MethodError(
            f"method {name!r} is unknown"
            + (near(name, _methods) or "; `limelight methods` lists them all")
        )
    return _methods[name]


def use(spec: str | Callable | Method | Bound, /, **options: Any) -> Bound:
    """Bind a method to options: `use("normgrad", phase="scaling")`.

    A string may carry them itself: `normgrad:scaling`, `smoothgrad:gradcam,n=32,sigma=0.2`; the
    word after the colon sets the method's first option. The option `sites`, which every method
    has, says where it reads. Raises MethodError, OptionError.
    """
    if isinstance(spec, Bound):
        if not options:
            return spec
        return _bind(spec.method, {"sites": spec.sites, **dict(spec.options), **options})
    if isinstance(spec, str):
        name, words = split_spec(spec)
        found = find(name)
        return _bind(found, {**_read(found, words), **options})
    chosen = spec if isinstance(spec, Method) else getattr(spec, "limelight", None)
    if not isinstance(chosen, Method):
        raise MethodError(
            f"{spec!r} is no method: give a name, or a function decorated with @limelight.method"
        )
    return _bind(chosen, options)


def _read(found: Method, words: list[str]) -> dict[str, Any]:
    options = found.options
    values: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        key = key or next(iter(options), "")
        if not equals or key not in (*options, "sites"):
            raise OptionError(_unknown(found, key or word))
        values[key] = text
    return values


def _bind(found: Method, given: Mapping[str, Any]) -> Bound:
    hints = get_type_hints(found.function)
    given = dict(given)
    sites = given.pop("sites", None)
    for key in given:
        if key not in found.options:
            raise OptionError(_unknown(found, key))
    values = {k: convert(found.name, k, v, hints.get(k)) for k, v in given.items()}
    changed = {k: v for k, v in values.items() if v != found.options[k].default}
    sites = tuple(sites) if isinstance(sites, list) else sites
    return Bound(found, tuple(sorted(changed.items())), sites, _label(found, changed))


def _label(found: Method, changed: Mapping[str, Any]) -> str:
    first = next(iter(found.options), "")
    named = first in changed and isinstance(changed[first], str)
    variant = f":{changed[first]}" if named else ""
    rest = "".join(f",{k}={v}" for k, v in changed.items() if not (named and k == first))
    return found.name + variant + rest


def _unknown(found: Method, key: str) -> str:
    known = ", ".join(found.options) or "none"
    return (
        f"method {found.name!r} has no option {key!r} (it has: {known}){near(key, found.options)}"
    )

"""Methods by name: shapes of plug-in, options read from the signature.

A site method is a pure function of what it names in its signature, for one site:

    @method("energy", sites="hidden")
    def energy(act, grad, *, power: float = 2.0): ...

`act` and `grad` arrive as `b c` and then the positions (`y x`, `t`, `n` for tokens), class tokens
removed; features without positions, as in tables, as `b 1 c`: every feature is a place, or as
`b c 1` where the formula is about all channels of a place. `inputs` is the activation entering the
module, `module` the module itself. It returns `b` and the positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar, get_args

from torch import nn

from ..errors import MethodError, OptionError
from ..sites import Site
from .named import Bound, Named, Registry, listed
from .options import positional

NEEDS = ("act", "grad", "relevance", "inputs", "module")
Kind = Literal["site", "path", "pass", "heads", "circuit"]
Places = Literal["any", "one", "several"]
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Method(Named):
    """A registered method: what it is called, what it needs, where it reads, its options.

    places    what its formula makes of features alone: `any`, each is a place; `one`, all are the
              channels of one place, which gets one number a sample; `several`, nothing
    perturbs  it makes maps of inputs by changing them, each that `sites` names
    together  it changes them at once, and gives a map for each
    """

    kind: Kind
    sites: str
    regime: str | Callable[..., object] = "plain"
    needs: tuple[str, ...] = ()
    places: Places = "any"
    perturbs: bool = False
    together: bool = False

    noun: ClassVar[str] = "method"
    decorator: ClassVar[str] = "method"
    common: ClassVar[tuple[str, ...]] = ("sites",)


@dataclass(frozen=True)
class BoundMethod(Bound[Method]):
    """A method with its options set, under the name that results carry.

    sites  where it reads, whatever the call around it says; None to follow the call
    """

    sites: str | Site | nn.Module | tuple[str | Site | nn.Module, ...] | None = None

    @property
    def method(self) -> Method:
        return self.named

    @property
    def regime(self) -> Any:
        """The backward it reads: a regime's name, or what its options make of one."""
        if isinstance(self.method.regime, str):
            return self.method.regime
        defaults = {n: p.default for n, p in self.method.options.items()}
        return self.method.regime(**{**defaults, **dict(self.options)})


MethodSpec = str | Callable[..., object] | Method | BoundMethod

METHODS: Registry[Method] = Registry(
    Method, "limelight.methods", hint="; `limelight methods` lists them all"
)


def method(
    name: str,
    *,
    sites: str = "hidden",
    regime: str | Callable[..., object] = "plain",
    places: Places = "any",
) -> Callable[[Function], Function]:
    """Register a site method. `sites`: where it reads unless told, `hidden`, `last` or `input`.

    The positional parameters say what it needs: any of act, grad, relevance, inputs, module.
    A regime is a name, or a function from the method's options to one. Features that have no
    positions are read as positions; with `places="one"` as the channels of a single one, for
    formulas that weigh channels; with `places="several"` they are refused.

    Example:
        >>> @ll.method("energy", sites="hidden")
        ... def energy(act, grad, *, power: float = 2.0):
        ...     "|x g|^power summed over channels."
        ...     return (act * grad).abs().pow(power).sum(1)
        >>> ll.maps(net, x, "energy:1", target=1)[0].values.shape
        torch.Size([6, 6])
    """

    def register(function: Function) -> Function:
        needs = positional(function)
        wrong = [n for n in needs if n not in NEEDS]
        if wrong or not needs:
            raise MethodError(
                f"method {name!r} takes {', '.join(wrong) or 'nothing'}; a site method "
                f"takes some of {', '.join(NEEDS)} and keywords"
            )
        if places not in get_args(Places):
            raise MethodError(
                f"method {name!r} says places={places!r}, which is one of "
                f"{', '.join(get_args(Places))}"
            )
        METHODS.add(Method(name, function, "site", sites, regime, needs, places))
        return function

    return register


def path_method(name: str, *, sites: str = "input") -> Callable[[Function], Function]:
    """Register a path method: `f(**options) -> Path`; equal paths share their passes.

    Example:
        >>> from limelight.methods.gradients.smoothgrad import Noise
        >>> from limelight.probe.attribution import Path
        >>> @ll.path_method("strongest")
        ... def strongest(*, n: int = 4):
        ...     "The largest gradient over noisy inputs."
        ...     def fold(most, map, k):
        ...         return map if most is None else most.maximum(map)
        ...     return Path(Noise(n, 0.1), "gradient", fold, lambda most, count, x: most)
        >>> ll.maps(net, x, "strongest,n=2", target=1)[0].values.shape
        torch.Size([8, 8])
    """
    return _register(name, "path", sites, perturbs=True)


def pass_method(
    name: str, *, sites: str = "input", perturbs: bool = False, together: bool = False
) -> Callable[[Function], Function]:
    """Register a pass method: `f(runner, x, target, **options)`; it asks for its own passes.

    x is one sample in the model's own layout, which is `runner.layout`; the map is `1` and places.
    With `perturbs=True` x is each input that is asked for: `sites=["input", "input.1"]`; with
    `together=True` they are `runner.moving`, and the method returns a list, a map for each.

    Example:
        >>> @ll.pass_method("blank")
        ... def blank(runner, x, target):
        ...     "What the score is without the picture, at every pixel."
        ...     return runner.scores(x * 0, target)[:, None, None].expand(-1, *x.shape[2:])
        >>> ll.maps(net, x, "blank", target=1)[0].values.shape
        torch.Size([8, 8])
    """
    return _register(name, "pass", sites, perturbs=perturbs or together, together=together)


def head_method(name: str, *, sites: str = "heads") -> Callable[[Function], Function]:
    """Register a metric of attention: `f(heads, **options)` gives one number a head, `b h`.

    heads   a `Heads`: statistics of the map, its rows, gates, token ids

    Example:
        >>> @ll.head_method("sharpest")
        ... def sharpest(heads):
        ...     "The largest share that one key has, on average."
        ...     return heads.rows(slice(None)).amax(-1).mean(-1)
        >>> ll.maps(lm, ids, "sharpest")[0].values.shape
        torch.Size([4])
    """
    return _register(name, "heads", sites)


def _register(
    name: str, kind: Kind, sites: str, *, perturbs: bool = False, together: bool = False
) -> Callable[[Function], Function]:
    def register(function: Function) -> Function:
        chosen = Method(name, function, kind, sites, perturbs=perturbs, together=together)
        METHODS.add(chosen)
        return function

    return register


def list_methods(pattern: str = "*") -> tuple[Method, ...]:
    """The registered methods whose names match, sorted by name.

    Example:
        >>> [m.name for m in ll.list_methods() if m.name.startswith("smooth")]
        ['smoothgrad']
    """
    return METHODS.matching(pattern)


def find(name: str) -> Method:
    """The method of that name. Raises MethodError with near names."""
    return METHODS.find(name)


def use(spec: MethodSpec, /, **options: object) -> BoundMethod:
    """Bind a method to options: `use("normgrad", phase="scaling")`.

    A string may carry them itself: `normgrad:scaling`, `smoothgrad:gradcam,n=32,sigma=0.2`; the
    word after the colon sets the method's first option. The option `sites`, which every method
    has, says where it reads. Raises MethodError, OptionError.

    Example:
        >>> smooth = ll.use("smoothgrad", n=2)
        >>> ll.maps(net, x, smooth, target=1)[0].method
        'smoothgrad,n=2'
    """
    if not isinstance(spec, BoundMethod):
        return _bind(*METHODS.resolve(spec, options))
    if not options:
        return spec
    return _bind(spec.method, {"sites": spec.sites, **dict(spec.options), **options})


def bound_methods(specs: MethodSpec | Iterable[MethodSpec]) -> list[BoundMethod]:
    """One or several methods, bound. Raises OptionError for none, and what `use` raises."""
    bounds = [use(spec) for spec in listed(specs)]
    if not bounds:
        raise OptionError("no method was asked for; `limelight methods` lists them")
    return bounds


def _bind(chosen: Method, given: Mapping[str, Any]) -> BoundMethod:
    changed = chosen.changes(given)
    sites = given.get("sites")
    sites = tuple(sites) if isinstance(sites, list) else sites
    return BoundMethod(chosen, tuple(sorted(changed.items())), sites, text=chosen.label(changed))

"""What is known of the axes of a forward's values: what was said, what the graph says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor, nn
from torch.autograd.graph import Node

from ..errors import SiteError
from ..sites import Pattern, Site
from .axis import Axis, Dimensions, dimensions, names_of, root
from .layout import Layout, find_grid, layout
from .module_rules import axes_of_module
from .naming import ContradictionError
from .reading import AxesReading, Edge, named

Place = tuple[str, str, int, tuple[int, ...]]
_EXAMPLES = {1: "b", 2: "b c", 3: "b c t", 4: "b c y x", 5: "b c t y x"}
_MEANINGS = {"c": "channels", "t": "time steps", "n": "tokens"}
_CURE = "say which is the batch, as in axes={'input': 't b c'}"
_CURES = {"c": "give a batch, x[None], or say which dimension is the batch, axes={'input': ...}"}
_EMBEDDED = {2: ("c",), 3: ("n", "c")}


class Located(Protocol):
    """A value as its axes are looked for: where it is, how large, by which node it was made."""

    @property
    def site(self) -> Site: ...
    @property
    def edge(self) -> Edge | None: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Uncaptured:
    """A value that nobody captured: the input, a part of the output."""

    site: Site
    edge: Edge | None
    shape: tuple[int, ...]


INPUT = Site("", "in")


class Known:
    """The dimensions of a value, in words and as a layout once either is asked for.

    said   what its port is always called, `b h n d`
    wrong  axes that ops disagree about
    settled  whether the ops that use the value have been asked
    """

    __slots__ = ("_plan", "dims", "said", "settled", "wrong")

    def __init__(
        self,
        dims: Dimensions,
        said: str,
        wrong: Mapping[Axis, ContradictionError],
        *,
        settled: bool = True,
    ) -> None:
        self.dims, self.said, self.wrong, self.settled = dims, said, wrong, settled
        self._plan: Layout | None = None

    @property
    def names(self) -> str:
        return self.said or names_of(self.dims)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to find out."""
        return named(self.dims) and not self.wrong

    @property
    def contradiction(self) -> ContradictionError | None:
        """What an op says against one of the axes."""
        axes = [root(axis) for dim in self.dims for axis, _ in dim] if self.wrong else []
        return next((self.wrong[axis] for axis in axes if axis in self.wrong), None)

    @property
    def plan(self) -> Layout | None:
        if self._plan is None and self.contradiction is None:
            self._plan = layout(self.dims)
        return self._plan


class Declared:
    """Axes that were said: of sites by pattern, the input's among them."""

    def __init__(self, axes: Mapping[Pattern, str]) -> None:
        self.axes = dict(axes)
        for pattern, names in self.axes.items():
            check_names(pattern, names)

    def of(self, site: Site, shape: Sequence[int]) -> tuple[str, ...] | None:
        """The names that were said for a site. Raises SiteError where they do not fit."""
        for pattern, names in self.axes.items():
            if pattern.matches(site):
                if len(names.split()) != len(shape):
                    raise SiteError(
                        f"axes {names!r} were said for {site}, but its shape is {tuple(shape)}; "
                        "name each dimension once"
                    )
                return tuple(names.split())
        return None


def check_names(where: object, names: str) -> None:
    """Raise SiteError for axes that no method could read."""
    words = names.split()
    if "b" not in words or len(set(words)) != len(words):
        raise SiteError(
            f"axes {names!r} of {where} are not understood: write each dimension once, the batch "
            "among them, as in 'b c t', 'b y x c' or 'b n c'"
        )


class ValueAxes:
    """Axes and layouts of the values of one forward; what was read stays known afterwards.

    cache   by place and shape, kept from run to run of a probe
    """

    def __init__(
        self,
        declared: Callable[[], Declared],
        modules: Mapping[str, nn.Module],
        prefix: Callable[[], int | None],
        cache: dict[Place, Known],
    ) -> None:
        self._declared, self.modules, self.prefix, self.cache = declared, modules, prefix, cache
        self.learnt = False  # the cache is of a forward like this one: what it lacks is not there
        self.reading = AxesReading()
        self.order: Callable[[], Iterable[Node]] = tuple
        self.main: Edge | None = None
        self.main_shape: tuple[int, ...] = ()
        self.sizes: dict[str, int] = {}
        self._starts: list[tuple[Edge, Sequence[int], Site | None, tuple[str, ...]]] = []

    @property
    def declared(self) -> Declared:
        return self._declared()

    def start(
        self,
        x: Tensor,
        site: Site | None = None,
        *,
        ids: bool = False,
        batch: int | None = None,
    ) -> None:
        """A value that enters the graph: at the input's site, as an embedding of ids, or beside.

        batch  the dimension that counts samples, where it is known
        """
        if x.grad_fn is None:
            return
        edge = x.grad_fn, x.output_nr
        if site == INPUT and self.main is None:
            self.main, self.main_shape = edge, tuple(x.shape)
        if batch is None and site == INPUT:
            batch = 0
        usual = () if batch is None else (*[""] * batch, "b")
        names = ("b", *_EMBEDDED.get(x.ndim, ())) if ids else usual
        self._starts.append((edge, x.shape, site, names))

    def _begin(self) -> None:
        """Name what entered the graph, by what was said of it; a batch comes first."""
        starts, self._starts = self._starts, []
        for edge, shape, site, names in starts:
            said = None if site is None else self.declared.of(site, shape)
            self.reading.start(edge, shape, said or names)

    def input_layout(self) -> Layout:
        """How methods read the input. Raises SiteError where its axes are not known."""
        if self.main is None:
            raise SiteError("the input is no float tensor and no embedding of one: it has no axes")
        return self.layout(Uncaptured(INPUT, self.main, self.main_shape))

    def of_output(self, part: Tensor, at: str = "") -> str:
        """The axes of a part of the output, by its path: `b c y x`, `?` for what is not known."""
        node = part.grad_fn
        edge = None if node is None else (node, part.output_nr)
        site = Site("", f"out.{at}" if at else "out")
        return self.names(Uncaptured(site, edge, tuple(part.shape)))

    def batch_dimension(self, ndim: int) -> int:
        """Which dimension of an input of so many counts samples: the first, or the one called b."""
        for pattern, names in self.declared.axes.items():
            if pattern.matches(INPUT) and len(names.split()) == ndim:
                return names.split().index("b")
        return 0

    def names(self, value: Located) -> str:
        """The axes in words, `?` for what is not known."""
        return self._of(value).names

    def layout(self, value: Located) -> Layout:
        """How methods read a value. Raises SiteError where its axes are not known."""
        known = self._of(value)
        plan = self._on_grid(known.plan)
        if plan is not None and plan.axes:
            return plan
        if plan is not None:
            raise SiteError(
                f"{value.site} has shape {value.shape} and no positions to draw a map over; choose "
                "a site before the pooling, or a token sequence"
            )
        raise SiteError(self._unknown(value, known))

    def _unknown(self, value: Located, known: Known) -> str:
        told = known.contradiction
        if told is not None:
            return (
                f"the first dimension of the input was taken for the batch, but {told.op} takes it "
                f"for {_MEANINGS.get(told.name, told.name)}: {_CURES.get(told.name, _CURE)}"
            )
        example = _EXAMPLES.get(len(value.shape), "b c ...")
        return (
            f"what the dimensions of {value.site} mean is not known: shape {value.shape}, read as "
            f"{known.names!r}; say it, as in axes={{{str(value.site)!r}: {example!r}}}"
        )

    def _of(self, value: Located, *, settle: bool = True) -> Known:
        site, shape = value.site, value.shape
        place = (site.path, site.port, site.call, shape)
        known = self.cache.get(place)
        if known is None or not (known.complete or (self.learnt and known.settled)):
            known = self.cache[place] = self._look(value, settle)
        return known

    def _look(self, value: Located, settle: bool) -> Known:
        site, shape = value.site, value.shape
        said = self.declared.of(site, shape)
        if said is None and value.edge is not None:
            self._begin()
            dims = self.reading.of(value.edge)
            if settle:
                self.reading.settle(dims, self.order())
            return Known(dims, site.axes, self.reading.contradictions, settled=settle)
        if said is None:
            module = self.modules.get(site.path)
            said = tuple(site.axes.split()) or axes_of_module(module, site, shape)
        return Known(dimensions(shape, said or ()), "", {})

    def _on_grid(self, plan: Layout | None) -> Layout | None:
        """Tokens on the picture, where the graph lost them but the model's family is known."""
        prefix = self.prefix() if plan is not None and plan.axes == "n" else None
        if plan is None or prefix is None:
            return plan
        size = self.input_sizes()
        if "y" not in size or "x" not in size:
            return plan
        grid = find_grid(plan.shape[-1], (size["y"], size["x"]), prefix)
        return plan if grid is None else replace(plan, axes="y x", grid=grid)

    def input_sizes(self) -> dict[str, int]:
        """How long the input is along each axis that has a name.

        Where no graph tells, four dimensions are torch's `b c y x`.
        """
        if not self.sizes and self.main is None and len(self.main_shape) == 4:
            said = self.declared.of(INPUT, self.main_shape) or ("b", "c", "y", "x")
            self.sizes = dict(zip(said, self.main_shape, strict=True))
        if not self.sizes and self.main is not None:
            names = self.names(Uncaptured(INPUT, self.main, self.main_shape)).split()
            self.sizes = {n: s for n, s in zip(names, self.main_shape, strict=True) if n != "?"}
        return self.sizes

    def close(self, values: Iterable[Located]) -> None:
        """Read what will be asked for once the graph is gone."""
        self.input_sizes()
        for value in values:
            if value.edge is not None:
                self._of(value, settle=False)
        self.reading, self.order, self._starts = AxesReading(), tuple, []
        self.main, self.main_shape = None, ()

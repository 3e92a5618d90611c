"""Named functions with typed options: one mechanism for methods, metrics, tasks and scores."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.methods.circuits.score import CircuitScore
from limelight.methods.circuits.tasks.registry import TASKS
from limelight.methods.metrics.registry import METRICS
from limelight.probe import entry_points
from limelight.probe.attribution import METHODS, bare_name, bound_methods, options_of
from limelight.probe.attribution.named import Bound, Named, Registry
from limelight.probe.attribution.options import convert, written
from limelight.probe.errors import MethodError, OptionError

NAMES = [(METHODS, "gradcam", "gradcm"), (METRICS, "pointing", "pointin"), (TASKS, "ioi", "ioj")]
IDS = ["method", "metric", "task"]


@dataclass(frozen=True)
class Tool(Named):
    noun: ClassVar[str] = "tool"
    decorator: ClassVar[str] = "tool"
    common: ClassVar[tuple[str, ...]] = ("place",)


def saw(
    wood, *, teeth: Literal["fine", "rough"] = "fine", length: int = 3, wet: bool | None = None
):
    """It saws.

    Not more.
    """
    return wood, teeth, length, wet


@pytest.fixture
def tools():
    registry = Registry(Tool, hint="; there is only a saw")
    registry.add(Tool("saw", saw))
    return registry


@pytest.mark.parametrize(("registry", "name", "wrong"), NAMES, ids=IDS)
def test_every_kind_finds_lists_and_proposes(registry, name, wrong):
    named = registry.find(name)
    assert named is registry.get(name)
    assert named.summary
    assert [n.name for n in registry.matching(name)] == [name]
    listed = [n.name for n in registry.matching()]
    assert listed == sorted(listed)
    assert registry.get("no such thing") is None
    with pytest.raises(
        MethodError, match=f"{named.noun} '{wrong}' is unknown; did you mean .*{name}"
    ):
        registry.find(wrong)


@pytest.mark.parametrize(("registry", "name", "wrong"), NAMES, ids=IDS)
def test_every_kind_proposes_options_and_refuses_twins(registry, name, wrong):
    named = registry.find(name)
    option = next(iter(named.options))
    with pytest.raises(OptionError, match=f"no option '{option}x' .*; did you mean '{option}'"):
        registry.resolve(f"{name},{option}x=1", {})
    with pytest.raises(OptionError, match=f"sets an option by key=value, not by '{option}'"):
        registry.resolve(f"{name},{option}", {})
    with pytest.raises(OptionError, match=f"{named.noun} '{name}' is given '{option}' twice"):
        registry.resolve(f"{name}:1,{option}=2", {})

    def other():
        """Another module's."""

    other.__module__ = "somewhere.else"
    fields = {f: getattr(named, f) for f in vars(named) if f not in ("name", "function")}
    with pytest.raises(
        MethodError, match=f"{named.noun} '{name}' is registered by .* and again by"
    ):
        registry.add(type(named)(name, other, **fields))
    assert registry.find(name) is named


def test_what_is_built_in_registers_itself():
    tasks = {t.name for t in ll.list_tasks()}
    assert {"ioi", "greater_than", "docstring", "induction"} <= tasks
    metrics = {m.name for m in ll.list_metrics()}
    assert {"pointing", "sparseness", "deletion", "nss"} <= metrics
    scores = {m.name for m in ll.list_methods() if isinstance(m, CircuitScore)}
    assert {"attribution", "norm", "acdc"} <= scores
    assert scores == {m.name for m in ll.list_methods() if m.kind == "circuit"}


def test_texts_are_read_by_the_signature(tools):
    named, texts = tools.resolve(" saw : rough , length = 7 , place=x", {"wet": "none"})
    assert texts == {"teeth": "rough", "length": "7", "place": "x", "wet": "none"}
    changed = named.changes(texts)
    assert changed == {"teeth": "rough", "length": 7}
    assert named.label(changed) == "saw:rough,length=7"
    assert named.label(named.changes({"length": "3", "wet": "yes"})) == "saw,wet=True"
    assert named.summary == "It saws."
    assert list(options_of(saw)) == ["teeth", "length", "wet"]
    assert bare_name("saw:rough,length=7") == bare_name(" saw ") == "saw"


def test_a_function_and_its_name_are_the_same(tools):
    assert (
        tools.resolve(saw, {}) == tools.resolve("saw", {}) == tools.resolve(tools.find("saw"), {})
    )
    for wrong in (print, 3, METHODS.find("gradcam"), METHODS.find("gradcam").function):
        with pytest.raises(MethodError, match=r"is no tool: give a name, or .* @limelight\.tool"):
            tools.resolve(wrong, {})
    with pytest.raises(MethodError, match="tool 'axe' is unknown; there is only a saw"):
        tools.find("axe")
    tools.remove("saw")
    assert tools.get("saw") is None


def test_an_option_where_there_is_none(tools):
    tools.add(Tool("nail", lambda wood: wood))
    with pytest.raises(OptionError, match="tool 'nail' has no option to set to 'rough'"):
        tools.resolve("nail:rough", {})
    with pytest.raises(OptionError, match=r"no option 'size' \(it has: none\)"):
        tools.resolve("nail,size=2", {})


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ("8", int, 8), (8.0, int, 8), ("8", float, 8.0), ("1e-3", float, 1e-3), ("no", bool, False),
        ("2", Literal[1, 2], 2), ("none", int | None, None), ("3", int | str, 3),
        ("x", int | str, "x"), ("4", int | tuple[int, ...], 4), ([4, 8], tuple[int, ...], (4, 8)),
        ("4x8", int | tuple[int, ...] | None, (4, 8)), ("0.5x1", tuple[float, ...], (0.5, 1.0)),
        ("mean", Literal["zero", "mean"] | Tensor, "mean"),
    ],
)  # fmt: skip
def test_conversion(value, hint, expected):
    found = convert("saw", "length", value, hint)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint"),
    [(True, int), (2.5, int), ("nan", int), ("8.0", int), ("x", float), (None, float), (1, bool),
     (3, str), ([1], int), ("x", int | None), ("4xx", tuple[int, ...]), (4.5, tuple[int, ...]),
     ((4, "x"), int | tuple[int, ...]), ("zer", Literal["zero"] | Tensor), (0, Tensor)],
)  # fmt: skip
def test_conversions_that_are_refused(value, hint):
    with pytest.raises(OptionError, match="saw: length "):
        convert("saw", "length", value, hint)


def test_a_tensor_is_an_option_by_its_content():
    def paint(*, colour: Literal["red"] | Tensor = "red") -> object:
        return colour

    named, shade = Tool("paint", paint), torch.rand(3, 1)
    first, second, other = (
        Bound(named, tuple(named.changes({"colour": c}).items()), text="")
        for c in (shade, shade.clone(), shade + 1)
    )
    assert first == second != other
    assert hash(first) == hash(second)
    assert torch.equal(first(), shade)
    assert named.label(dict(first.options)).startswith("paint,colour=tensor 3x1 ")
    for dtype in (torch.bfloat16, torch.bool, torch.complex64):
        held = convert("paint", "colour", torch.ones(2, dtype=dtype), Tensor)
        assert held != convert("paint", "colour", torch.ones(2, dtype=torch.float64), Tensor)
        assert held.tensor.dtype == dtype
        assert convert("paint", "colour", held, Tensor) is held
    near = "colour is one of red, not 'rde'; did you mean 'red'"
    with pytest.raises(OptionError, match=near):
        named.changes({"colour": "rde"})


def test_several_numbers_are_read_back_as_they_are_written():
    for value in ((4, 8), (0.5, 1.0), 3, "word"):
        hint = int | tuple[int, ...] if value in ((4, 8), 3) else tuple[float, ...] | str
        assert convert("saw", "length", written(value), hint) == value


def test_plug_ins_of_every_group_are_loaded_before_a_name_is_unknown(monkeypatch):
    registry = Registry(Tool, "limelight.test_tools", "limelight.test_more")
    asked = []

    def installed(group):
        asked.append(group)
        load = {
            "limelight.test_tools": lambda: registry.add(Tool("saw", saw)),
            "limelight.test_more": lambda: 1 / 0,
        }[group]
        return [SimpleNamespace(value=f"{group}:x", load=load)]

    monkeypatch.setattr(entry_points, "entry_points", installed)
    with pytest.warns(UserWarning, match="'limelight.test_more' could not be loaded: division"):
        assert registry.find("saw").function is saw
    assert [t.name for t in registry.matching("s*")] == ["saw"]
    assert asked == ["limelight.test_tools", "limelight.test_more"]


def test_one_or_several_methods_or_none():
    names = [b.name for b in bound_methods("normgrad:scaling")]
    assert names == [b.name for b in bound_methods(["normgrad:scaling"])]
    method = METHODS.find("gradcam")
    assert bound_methods(method) == bound_methods(method.function) == bound_methods(["gradcam"])
    with pytest.raises(
        OptionError, match="no method was asked for; `limelight methods` lists them"
    ):
        bound_methods([])
    net, x = (
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)),
        torch.ones(1, 1, 4, 4),
    )
    with ll.Probe(net) as probe:
        probe.watch("0")
        probe(x)
        with pytest.raises(OptionError, match="no method was asked for"):
            probe.maps([])


def test_a_score_of_heads_names_what_it_needs():
    with pytest.raises(
        MethodError, match=r"'odd' needs 'gradients', but .*; did you mean 'gradient'"
    ):
        ll.circuit_method("odd", needs=("gradients",))

"""Methods by name: registration, options as text and as values, errors that help."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

import limelight as ll
from limelight.probe.attribution import registry
from limelight.probe.errors import MethodError, OptionError


@pytest.mark.parametrize("turn", ["first", "second"])
def test_what_a_test_registers_is_gone_in_the_next(turn):
    assert registry.METHODS.get("of-a-test") is None, turn
    ll.method("of-a-test")(lambda act: act.sum(1))
    assert registry.METHODS.get("of-a-test") is not None


def made():
    @ll.method("test-method", sites="last")
    def test_method(
        act,
        grad,
        *,
        kind: Literal["soft", "hard"] = "soft",
        power: float = 2.0,
        n: int = 4,
        flag: bool = False,
        name: str | None = None,
    ):
        """One line.

        And more.
        """
        return (act * grad).sum(1) * power

    return test_method


def test_what_a_method_knows_of_itself():
    function = made()
    found = registry.find("test-method")
    assert function.limelight is found
    assert (found.kind, found.sites, found.needs) == ("site", "last", ("act", "grad"))
    assert list(found.options) == ["kind", "power", "n", "flag", "name"]
    assert found.summary == "One line."


@pytest.mark.parametrize(
    ("spec", "options", "label"),
    [
        ("test-method", {}, "test-method"),
        ("test-method:hard", {"kind": "hard"}, "test-method:hard"),
        ("test-method:soft", {}, "test-method"),
        ("test-method, power=3, n=8", {"power": 3.0, "n": 8}, "test-method,power=3.0,n=8"),
        (
            "test-method:hard,flag=yes,name=x",
            {"kind": "hard", "flag": True, "name": "x"},
            "test-method:hard,flag=True,name=x",
        ),
        ("test-method,name=none", {}, "test-method"),
    ],
)
def test_options_in_text(spec, options, label):
    made()
    bound = ll.use(spec)
    assert dict(bound.options) == options
    assert bound.name == label
    assert ll.use(bound) is bound
    assert ll.use("test-method", **options) == bound
    assert ll.use(made(), **options).options == bound.options


def test_shipped_methods_read_options():
    assert dict(ll.use("normgrad:scaling").options)["phase"] == "scaling" or (
        ll.use("normgrad:scaling").name == "normgrad"
    )
    smooth = ll.use("smoothgrad:gradcam,n=4")
    assert dict(smooth.options) == {"base": "gradcam", "n": 4}


def test_options_on_top_of_a_bound_method_and_sites():
    made()
    bound = ll.use(ll.use("test-method:hard", sites=["a", "b"]), power=5)
    assert dict(bound.options) == {"kind": "hard", "power": 5.0}
    assert bound.sites == ("a", "b")
    assert ll.use("test-method,sites=layer4").sites == "layer4"
    assert hash(bound)


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        (
            "test-method,powr=1",
            "method 'test-method' has no option 'powr' (it has: kind, power, n, flag, name); did "
            "you mean 'power'?",
        ),
        (
            "test-method,word",
            "method 'test-method' sets an option by key=value, not by 'word' (it has: kind, ",
        ),
        ("test-method,site=0", "method 'test-method' has no option 'site' (it has: kind, power, "),
        ("test-method,n=1,n=2", "method 'test-method' is given 'n' twice: keep one"),
        ("test-method:soft,kind=hard", "method 'test-method' is given 'kind' twice: keep one"),
        ("test-method,n=inf", "test-method: n is a whole number, not 'inf'"),
        ("gradcam,relux=1", "method 'gradcam' has no option 'relux' (it has: relu); did you mean"),
        (
            "test-method:sotf",
            "test-method: kind is one of soft, hard, not 'sotf'; did you mean 'soft'?",
        ),
        ("test-method,n=2.5", "test-method: n is a whole number, not '2.5'"),
        ("test-method,power=x", "test-method: power is a number, not 'x'"),
        ("test-method,flag=perhaps", "test-method: flag is true or false, not 'perhaps'"),
    ],
)
def test_wrong_options(spec, error):
    made()
    with pytest.raises(OptionError) as found:
        ll.use(spec)
    assert str(found.value).startswith(error)


def test_unknown_methods():
    with pytest.raises(MethodError, match="method 'gradcamm' is unknown; did you mean 'gradcam'"):
        ll.use("gradcamm")
    with pytest.raises(MethodError, match="'qqqq' is unknown; `limelight methods` lists them all"):
        ll.use("qqqq")
    with pytest.raises(
        MethodError, match="is no method: give a name, or a function decorated with"
    ):
        ll.use(print)


def test_the_same_name_from_two_modules_is_refused():
    made()
    made()

    def other(act):
        return act.sum(1)

    other.__module__ = "somewhere.else"
    with pytest.raises(MethodError) as error:
        ll.method("test-method")(other)
    assert str(error.value) == (
        f"method 'test-method' is registered by {__name__} and again by somewhere.else; rename "
        "one of them"
    )


def test_a_signature_that_asks_for_what_there_is_not():
    with pytest.raises(
        MethodError, match="'odd' takes weights; a site method takes some of act, gr"
    ):
        ll.method("odd")(lambda act, weights: act)
    with pytest.raises(MethodError, match="'odd' takes nothing; a site method takes some of act"):
        ll.method("odd")(lambda: 1)


def test_a_user_method_runs_by_name_and_by_function():
    energy = made()
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(8, 2))
    x = torch.randn(2, 1, 4, 4)
    by_name = ll.maps(net, x, "test-method,power=3", sites="0", target=1)
    by_function = ll.maps(net, x, ll.use(energy, power=3), sites="0", target=1)
    grad = net[2].weight[1].detach().reshape(2, 2, 2)
    expected = (net[0](x).detach() * grad).sum(1) * 3
    torch.testing.assert_close(by_name.stack(), expected)
    torch.testing.assert_close(by_function.stack(), expected)
    assert by_name[0].method == "test-method,power=3.0"
    assert by_name[0].about.options == (("power", "3.0"),)

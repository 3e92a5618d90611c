"""What an argument names is done or refused: every method at sites of every kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.probe.attribution.registry import Method, list_methods
from limelight.probe.errors import LimelightError, MethodError, OptionError, SiteError

torch.set_num_threads(1)


class Join(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.tanh(a + 0.5 * b)


class Net(nn.Module):
    """A residual classifier in double precision, with a module of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.body = nn.Conv2d(4, 4, 3, padding=1)
        self.join = Join()
        self.head = nn.Linear(4, 5)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        return self.head(self.join(x, self.body(x)).mean((2, 3)))


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
FEWER = {"n": 3, "algorithm": "saliency", "longest": 16, "reduce": "sum"}
SITES = (
    "input", "stem", "body:in", "join:in.1", "head", "stem:out[1]", "body:in[2]", "join:in.1[3]",
    "head:out[2]", "input[1]",
)  # fmt: skip
ASKED = [
    m
    for m in list_methods()
    if m.kind in ("site", "path", "pass") and m.function.__module__.startswith("limelight.methods")
]
WHOLE = {"captum", "occlusion", "rise", "salient_relevance"}


def asked(method: Method, **options: Any) -> Any:
    fewer = {k: v for k, v in FEWER.items() if k in method.options}
    return ll.use(method.name, **{**fewer, **options})


def refuses(method: Method, site: str) -> bool:
    """Whether a method cannot be made at a site: nothing it speaks of is there."""
    whole, head = site == "input", site.startswith("head")
    if method.name in WHOLE:
        return not whole
    if method.name == "normgrad_proper":  # of convolutions, at what they give
        return not site.startswith("stem")
    if method.name == "cam":  # of what a linear head averages
        return not head
    return (method.places == "several" and head) or ".attention." in method.function.__module__


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("method", ASKED, ids=lambda m: m.name)
def test_a_site_is_read_or_refused(method: Method, site: str) -> None:
    net, targets = Net(), [1, 2 if method.name == "meta" else ll.margin(1, 2)]
    if refuses(method, site):
        with pytest.raises(LimelightError, match=r"\w+ \w+ .* \w+"):
            ll.maps(net, X, asked(method), sites=site, target=targets)
        return
    found = ll.maps(net, X, asked(method), sites=site, target=targets, seed=3)
    assert [(m.sample, str(m.site)) for m in found] == [(s, site) for s in "0011"]
    assert {m.values.dtype for m in found} == {torch.float64}
    alone = ll.maps(net, X, asked(method), sites=site, target=targets, seed=3, batch=1)
    for one, other in zip(found, alone, strict=True):
        torch.testing.assert_close(one.values, other.values, rtol=1e-5, atol=1e-9)
    if "[" in site:
        _is_a_part(net, method, site, found)


def _is_a_part(net: nn.Module, method: Method, site: str, found: ll.Maps) -> None:
    """The map of a channel is its part of the map of all, and no map of the whole."""
    path, index = site[:-1].split("[")
    path, index = path.removesuffix(":out"), int(index)
    whole = ll.maps(net, X, asked(method), sites=path, target=1, seed=3)
    if whole[0].axes == "c":
        torch.testing.assert_close(found[0].values, whole[0].values[index : index + 1])
    elif whole[0].axes:
        assert not torch.equal(found[0].values, whole[0].values)
    if "channels" in method.options and "base" not in method.options and whole[0].axes != "c":
        each = ll.maps(net, X, asked(method, channels=True), sites=path, target=1, seed=3)
        torch.testing.assert_close(found[0].values, each[0].values[index])


NUMBERS = [
    (method.name, name)
    for method in list_methods()
    for name, option in method.options.items()
    if method.function.__module__.startswith("limelight.methods") and "float" in str(option)
]


@pytest.mark.parametrize(("method", "option"), NUMBERS)
def test_no_option_is_a_number_that_is_none(method: str, option: str) -> None:
    for value in (float("nan"), float("inf"), "nan", "-inf"):
        with pytest.raises(OptionError, match=option):
            ll.use(method, **{option: value})


@pytest.mark.parametrize(
    "spec",
    [
        "smoothgrad,n=-3", "vargrad,n=0", "squaregrad,sigma=-1", "integrated_gradients,n=0",
        "integrated_gradients,n=1,rule=trapezoid", "rise,n=0", "rise,p=0", "rise,p=1.5",
        "rise,cells=-1", "occlusion,window=-4", "occlusion,window=4x0", "occlusion,stride=0",
        "occlusion,batch=-1", "meta,steps=0", "captum:saliency,n=0",
        "captum:gradient_shap,sigma=-1", "lrp,epsilon=-1", "salient_relevance,k=0",
        "salient_relevance,scales=1x0",
        "salient_relevance,threshold=2", "rollout,start=-1", "map_rank,share=2",
        "attention_mass,radius=-1",
    ],
)  # fmt: skip
def test_impossible_options_are_refused_before_anything_runs(spec: str) -> None:
    net = Net()
    net.register_forward_pre_hook(lambda module, given: pytest.fail("the model ran"))
    with pytest.raises(OptionError, match=r"takes|needs"):
        ll.maps(net, X, ["gradcam", spec], target=1)


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_methods_of_whole_inputs_say_so(name: str) -> None:
    method = next(m for m in ASKED if m.name == name)
    for site in ("stem", "stem:out[1]", "input[1]"):
        with pytest.raises(MethodError, match="whole inputs"):
            ll.maps(Net(), X, asked(method), sites=site, target=1)
        with pytest.raises(MethodError, match="whole inputs"):
            ll.maps(Net(), X, ["gradcam", asked(method, sites=site)], sites=site, target=1)
    found = ll.maps(Net(), X, ["gradcam", asked(method)], sites="stem", target=1)
    assert [str(m.site) for m in found] == ["stem", "input"] * 2
    assert "was not made at stem" in " ".join(found[1].about.notes)


def test_a_part_that_is_not_there_is_refused() -> None:
    for name in ("gradcam", "integrated_gradients", "smoothgrad", "meta"):
        with pytest.raises(SiteError, match=r"stem:out\[7\] was asked, but stem has 4"):
            ll.maps(Net(), X, name, sites="stem:out[7]", target=1)


@pytest.mark.parametrize("site", ["stem", "body", "head"])
def test_integrated_gradients_of_layers_agree_with_captum(site: str) -> None:
    attr = pytest.importorskip("captum.attr")
    net, base = Net(), torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    net.act.inplace = False
    want = attr.LayerIntegratedGradients(net, net.get_submodule(site)).attribute(
        X, baselines=base.expand_as(X), target=2, n_steps=8, method="gausslegendre"
    )
    net.act.inplace = True
    use = ll.use("integrated_gradients", n=8, baseline=base, channels=True)
    found = torch.stack([m.values for m in ll.maps(net, X, use, sites=site, target=2)])
    torch.testing.assert_close(found, want.detach(), rtol=1e-6, atol=1e-8)


def test_wildcards_pass_over_what_has_no_positions_with_a_note() -> None:
    for name in ("eigencam", "smoothgrad:eigencam,n=2", "meta:eigencam"):
        found = ll.maps(Net(), X[:1], name, sites="*", target=1)
        assert [str(m.site) for m in found] == ["stem", "act", "body", "join"]
        assert "eigencam passed over head" in " ".join(found[0].about.notes)
        with pytest.raises(SiteError, match=r"head has shape .* and no positions"):
            ll.maps(Net(), X[:1], name, sites=["stem", "head"], target=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": 1.5}, "seed is a whole number, not 1.5"),
        ({"seed": "x"}, "seed is a whole number"),
        ({"sites": []}, "names no site"),
        ({"sites": ""}, "names no site"),
        ({"axes": "b c"}, "axes names dimensions by site"),
        ({"axes": {"input": 3}}, "axes names dimensions by site"),
        ({"batch": -1}, "batch is 'auto' or"),
    ],
)
def test_arguments_of_another_kind_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(LimelightError, match=words):
        ll.maps(Net(), X, "gradcam", target=1, **options)


def test_sites_keep_their_order_in_every_method() -> None:
    sites = ["head", "input", "stem:out[1]", "stem"]
    for name in ("gradient", "integrated_gradients,n=2", "smoothgrad,n=2"):
        found = ll.maps(Net(), X[:1], name, sites=sites, target=1)
        assert [str(m.site) for m in found] == sites


def test_a_probe_maps_the_part_that_it_watches() -> None:
    with ll.Probe(Net()) as probe:
        probe.watch("stem:out[1]")
        probe(X)
        found = probe.maps("gradient_sum", target=ll.label(1))
        assert [str(m.site) for m in found] == ["stem:out[1]"] * 2
        grad = probe.backward(1)["stem"].grad
    assert grad is not None
    torch.testing.assert_close(found[0].values, grad[0, 1])

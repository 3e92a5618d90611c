"""TorchScript and exported models: outside views are right, what lies inside is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.probe.errors import LimelightError, ProbeError, SiteError
from limelight.probe.sites import adapt

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.jit calls itself old
COST = {
    "captum": "captum:saliency",
    "occlusion": "occlusion,window=8,stride=8",
    "rise": "rise,n=4",
    **{name: f"{name},n=2" for name in ("smoothgrad", "squaregrad", "vargrad")},
    "integrated_gradients": "integrated_gradients,n=3",
}
OUTSIDE = {*COST, "gradient", "gradient_sum", "input_x_gradient"}
METHODS = [m.name for m in ll.list_methods() if m.kind != "circuit"]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)
    return nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last).eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=["traced", "scripted", "frozen", "loaded"])
def script(request: pytest.FixtureRequest, net: nn.Module, x: Tensor) -> nn.Module:
    kind = request.param
    if kind == "traced":
        return torch.jit.trace(net, x)
    scripted = torch.jit.script(net)
    if kind == "loaded":
        path = request.getfixturevalue("tmp_path_factory").mktemp("script") / "net.pt"
        scripted.save(path)
        return torch.jit.load(path)
    return torch.jit.freeze(scripted) if kind == "frozen" else scripted


@pytest.mark.parametrize("name", METHODS)
def test_a_script_gives_the_maps_of_its_model_or_says_what_it_is(net, script, x, name) -> None:
    spec = COST.get(name, name)
    if name in OUTSIDE:
        maps, want = ll.maps(script, x, spec, target=2), ll.maps(net, x, spec, target=2)
        assert len(maps) == len(want) == 2
        for a, b in zip(maps, want, strict=True):
            torch.testing.assert_close(a.values, b.values, atol=1e-6, rtol=1e-5)
    else:
        with pytest.raises(LimelightError, match="TorchScript"):
            ll.maps(script, x, spec, target=2)


@pytest.mark.parametrize("spec", ["captum:deep_lift", "smoothgrad:gradcam,n=2", "lrp:epsilon"])
def test_methods_in_methods_are_refused_too(script, x, spec) -> None:
    if spec.startswith("captum"):
        pytest.importorskip("captum")
    with pytest.raises(LimelightError, match="TorchScript"):
        ll.maps(script, x, spec, target=2, sites="last" if "gradcam" in spec else None)


def test_sites_inside_are_refused_and_those_outside_are_not(net, script, x) -> None:
    for site in ("0", "hidden", "heads", "*.0", ":relu.0", script):
        if site is script:
            continue
        with pytest.raises(SiteError, match="TorchScript"):
            ll.trace(script, x, site)
    trace = ll.trace(script, x, ["input", "output"], target=2)
    torch.testing.assert_close(trace["output"].act, net(x))
    assert trace["input"].grad.shape == x.shape
    assert ll.maps(script, x, "gradient")[0].about.notes[0] == "TorchScript: seen from outside only"


def test_a_script_is_left_as_it_was(script, x) -> None:
    before = [(p, p.requires_grad) for p in script.parameters()]
    ll.maps(script, x, ["gradient", "occlusion,window=8,stride=8"], target=2)
    assert [(p, p.requires_grad) for p in script.parameters()] == before


def test_a_script_inside_a_model(net, x) -> None:
    body = torch.jit.script(net[:2])
    whole = nn.Sequential(body, *net[2:])
    want = ll.maps(net, x, "gradcam", target=2, sites="1")
    maps = ll.maps(nn.Sequential(nn.Sequential(body, nn.Identity()), *net[2:]), x, "gradcam",
                   target=2, sites="0.1")  # fmt: skip
    torch.testing.assert_close(maps[0].values, want[0].values)
    for site in ("0", "0.1"):
        with pytest.raises(
            SiteError, match=f"site '{site}' matched nothing in this model .* '0' is Torch"
        ):
            ll.maps(whole, x, "gradcam", target=2, sites=site)


def test_exported_models_are_read_op_by_op(net, x) -> None:
    exported = torch.export.export(net, (x,)).module()
    for spec in ("gradient", "guided_backprop", "lrp:epsilon"):
        maps, want = ll.maps(exported, x, spec, target=2), ll.maps(net, x, spec, target=2)
        torch.testing.assert_close(maps[1].values, want[1].values)


@pytest.mark.parametrize("whole", [True, False])
def test_quantised_models_have_no_gradient_and_say_so(net, x, whole) -> None:
    quantization = pytest.importorskip("torch.ao.quantization")
    if torch.backends.quantized.engine == "none":
        pytest.skip("this torch has no quantised kernels")
    if whole:
        stubs = nn.Sequential(quantization.QuantStub(), *net, quantization.DeQuantStub()).eval()
        stubs.qconfig = quantization.get_default_qconfig(torch.backends.quantized.engine)
        ready = quantization.prepare(stubs)
        ready(x)
        small = quantization.convert(ready)
    else:
        small = quantization.quantize_dynamic(net, {nn.Linear})
    with pytest.raises(
        ProbeError, match=r"a quantised op without a gradient|linear_dynamic.0 in 4 has no gradient"
    ):
        ll.maps(small, x, "gradient", target=2)
    maps = ll.maps(small, x, "occlusion,window=8,stride=8", target=2, axes={"input": "b c y x"})
    assert len(maps) == 2
    assert maps[0].values.abs().max() > 0


def test_a_path_is_loaded_by_torch_and_not_by_us(tmp_path: Path, net, x) -> None:
    """Folders of scripts come back with the name of the class that was scripted."""
    torch.jit.script(net).save(tmp_path / "net.pt")
    loaded = torch.jit.load(tmp_path / "net.pt")
    assert ll.maps(loaded, x, "gradient", target=2)[0].about.model == "Sequential"
    assert adapt(loaded).hidden == ()

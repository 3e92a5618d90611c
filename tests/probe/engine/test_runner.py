"""`limelight.maps`: splitting changes nothing, memory is survived, passes are counted."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.probe.attribution.registry import list_methods
from limelight.probe.errors import LimelightError, OptionError


class Net(nn.Module):
    """A small picture classifier with a residual and in-place ReLUs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 5)
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        x = self.act(self.stem(x))
        return self.head((x + self.body(x)).mean((2, 3)))


X = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
FEWER = {"n": 4, "steps": 3, "masks": 8, "n_masks": 8, "samples": 4, "n_samples": 4, "n_steps": 3}


def quick(method):
    options = {k: v for k, v in FEWER.items() if k in method.options}
    return ll.use(method, **options)


class Attends(nn.Module):
    """A small vision transformer, for methods that read attention."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 4, 4)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


READS_ATTENTION = (
    "attention_gradcam",
    "generic_attention",
    "place_attention",
    "raw_attention",
    "rollout",
    "transformer_attribution",
)
ALL = [m for m in list_methods() if m.kind != "circuit" and not m.name.startswith("test-")]
METHODS = [m for m in ALL if m.kind != "heads"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_splitting_changes_nothing(method):
    net = (Attends() if method.name in READS_ATTENTION else Net()).double().eval()
    bound, sites = quick(method), None if method.sites == "input" else ["stem", "body.0"]
    if method.name == "cam":
        sites = ["body", "body.2"]
    elif method.name == "captum":
        bound = ll.use("captum:saliency")
    whole, split, odd = (
        ll.maps(net, X.double(), bound, sites=sites, target=[ll.top(), 2], batch=n, seed=3)
        for n in (4, 1, 3)
    )
    assert len(whole) == len(split) == len(odd) >= 8
    for one, two, three in zip(whole, split, odd, strict=True):
        assert (one.sample, one.target, one.site) == (two.sample, two.target, two.site)
        for other in (two, three):
            torch.testing.assert_close(one.values, other.values, rtol=2e-4, atol=1e-6)


def test_all_methods_at_once_equal_each_alone_and_share_their_passes():
    net = Net().eval()
    names = ["gradcam", "normgrad", "gradient", "guided_backprop", "hirescam", "xgradcam"]
    names = [n for n in names if n in {m.name for m in METHODS}]
    together = ll.maps(net, X, names, sites="stem", target=[1, 2])
    assert len(net.seen) <= 2
    for name in names:
        alone = ll.maps(net, X, name, sites="stem", target=[1, 2])
        torch.testing.assert_close(together.where(method=name).stack(), alone.stack())


def test_order_is_sample_target_method_site():
    net = Net().eval()
    found = ll.maps(
        net, X[:2], ["normgrad", "gradcam"], sites=["stem", "body.0"], target=[2, 1],
        samples=["b", "a"], batch=1,
    )  # fmt: skip
    keys = [(m.sample, m.target, m.method, str(m.site)) for m in found]
    assert keys == [
        (s, t, m, p)
        for s in ("b", "a")
        for t in ("class 2", "class 1")
        for m in ("normgrad", "gradcam")
        for p in ("stem", "body.0")
    ]


def test_methods_of_all_kinds_keep_the_order_asked():
    names = ["smoothgrad,n=2", "gradcam", "rise,n=4", "gradient"]
    found = ll.maps(Net().eval(), X[:2], names, target=1)
    assert [m.method for m in found] == names * 2


def test_a_method_asked_for_twice_keeps_its_two_turns():
    asked = [
        ll.use("gradcam", sites="body.0"), ll.use("gradient", sites="input"),
        ll.use("gradcam", sites="stem"), ll.use("rise", n=4), ll.use("gradient", sites="input"),
        ll.use("gradcam", sites="body.0"),
    ]  # fmt: skip
    found = ll.maps(Net().eval(), X[:2], asked, target=[1, 2])
    keys = [(m.method, str(m.site)) for m in found]
    once = [(b.name, "input" if b.sites is None else b.sites) for b in asked]
    assert keys == once * 4
    heads = ["gradient", "nonlocality", ll.use("activation", sites="patches"), "attention_entropy"]
    found = ll.maps(Attends().eval(), X[:1], heads, target=[1, 2])
    names = ["gradient", "nonlocality", "activation", "attention_entropy"]
    assert list(dict.fromkeys(m.method for m in found)) == names


def test_targets_per_sample_follow_the_split():
    net = Net().eval()
    masks = torch.rand(4, 16, 16)
    target = [ll.label([1, 2, 3, 4]), ll.label([4, 3, 2, 1])]
    whole = ll.maps(net, X, "gradcam", sites="stem", target=target, batch=4)
    split = ll.maps(net, X, "gradcam", sites="stem", target=target, batch=1)
    torch.testing.assert_close(whole.stack(), split.stack())
    assert [m.target for m in whole] == [m.target for m in split]
    assert [m.target for m in whole[:4]] == ["class 1", "class 4", "class 2", "class 3"]
    dense = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1))
    region = ll.region(masks, 1)
    whole, split = (ll.maps(dense, X, "gradcam", sites="0", target=region, batch=n) for n in (4, 1))
    torch.testing.assert_close(whole.stack(), split.stack())


class Full(Net):
    """Memory fills above a number of samples."""

    room = 2

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.room:
            self.seen.append(-len(x))
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you "
                "tried to allocate 99 bytes."
            )
        return super().forward(x)


@pytest.mark.parametrize("method", ["gradcam", "occlusion", "smoothgrad", "rise"])
def test_a_full_memory_is_survived(method):
    bound = quick(ll.use(method).method)
    sites = "stem" if method == "gradcam" else None
    full, plain = Full().eval(), Net().eval()
    found = ll.maps(full, X, bound, sites=sites, target=1)
    torch.testing.assert_close(
        found.stack(), ll.maps(plain, X, bound, sites=sites, target=1).stack(), rtol=1e-4, atol=1e-5
    )
    assert [m.sample for m in found] == ["0", "1", "2", "3"]
    assert min(full.seen) == -4
    assert not any(p.grad is not None for p in full.parameters())


def test_what_does_not_fit_even_alone_is_raised_as_it_is():
    net = Full().eval()
    net.room = 0
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        ll.maps(net, X, "gradcam", sites="stem", target=1)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        ll.maps(nn.Linear(3, 3), torch.randn(2, 4), "gradient", target=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    net = Net().eval()
    expected = ll.maps(net, X, ["gradcam", "normgrad"], sites="stem", target=1).stack()
    found = ll.maps(net.to(dtype), X.to(dtype), ["gradcam", "normgrad"], sites="stem", target=1)
    assert found[0].values.dtype == torch.float32
    assert found[0].about.dtype == str(dtype).removeprefix("torch.")
    scale = expected.abs().max()
    assert ((found.stack() - expected).abs().max() / scale) < 0.05


def test_inputs_as_tuple_and_as_keywords():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

        def forward(self, image, gain):
            return self.head((self.conv(image) * gain[:, None, None, None]).mean((2, 3)))

    net, gain = Two(), torch.arange(1.0, 5)
    first = ll.maps(net, (X, gain), "gradcam", sites="conv", target=1)
    second = ll.maps(net, {"image": X, "gain": gain}, "gradcam", sites="conv", target=1, batch=2)
    torch.testing.assert_close(first.stack(), second.stack())
    assert first[0].extent == (0.0, 0.0, 16.0, 16.0)


def test_meta_reads_the_size_of_the_picture_not_of_a_weight():
    net = Net().eval()
    plain = ll.maps(net, X, "gradcam", sites="stem", target=1)
    meta = ll.maps(net, X, ll.use("meta", base="gradcam", lr=0.0), sites="stem", target=1)
    torch.testing.assert_close(meta.stack(), plain.stack())
    assert meta[0].extent == plain[0].extent == (0.0, 0.0, 16.0, 16.0)


@pytest.mark.parametrize("batch", [0, -1, "many", 1.5])
def test_a_batch_size_that_is_none(batch):
    with pytest.raises(OptionError, match="batch is 'auto' or a number of samples from 1, not "):
        ll.maps(Net(), X, "gradcam", sites="stem", batch=batch)


def test_errors():
    with pytest.raises(LimelightError, match="no method was asked for; `limelight methods` lists"):
        ll.maps(Net(), X, [])
    with pytest.raises(LimelightError, match="3 sample names were given for 4 samples"):
        ll.maps(Net(), X, "gradcam", sites="stem", samples=["a", "b", "c"])
    with pytest.raises(
        LimelightError, match="target 'label' is given for 2 samples, but the batch"
    ):
        ll.maps(Net(), X, "gradcam", sites="stem", target=ll.label([1, 2]))
    with pytest.raises(LimelightError, match="the input holds no sample; give tensors whose first"):
        ll.maps(Net(), X[:0], "gradcam", sites="stem")
    with pytest.raises(
        LimelightError, match=r"head has shape .* and no positions to draw a map over"
    ):
        ll.maps(Net(), X, "eigencam", sites="head")


def test_a_plan_counts_passes():
    net = Net().eval()
    plan = ll.plan(net, X, ["gradcam", "guided_backprop"], target=[1, 2], sites="stem")
    assert (plan.samples, plan.forwards, plan.backwards) == (4, 1, 4)
    assert "4 samples, 4 at a time" in str(plan)
    assert plan.bytes_per_sample > 0


def test_a_seed_decides_random_methods():
    net, bound = Net().eval(), ll.use("smoothgrad", n=2)
    first, again, other = (
        ll.maps(net, X, bound, target=1, seed=seed).stack() for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("method", ["smoothgrad,n=1", "rise,n=2"])
def test_no_sample_of_one_seed_draws_what_another_draws_of_another(method):
    net, same = Net().eval(), X[:1].expand(3, -1, -1, -1)
    maps = [m for seed in range(3) for m in ll.maps(net, same, method, target=1, seed=seed)]
    assert len(maps) == len({m.values.numpy().tobytes() for m in maps}) == 9


@pytest.mark.parametrize(
    "method",
    [
        "gradcam",
        "smoothgrad,n=2",
        "integrated_gradients,n=2",
        "rise,n=2",
        "occlusion",
        "lrp",
        "meta",
    ],
)
def test_nothing_of_a_call_waits_for_the_collector(method):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x = torch.randn(2, 3, 12, 12)
    for _ in range(2):  # what is learnt of a model is learnt
        ll.maps(net, x, method, target=1)
    gc.collect()
    gc.disable()
    try:
        ll.maps(net, x, method, target=1)
        assert gc.collect() == 0
    finally:
        gc.enable()

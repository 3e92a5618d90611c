"""Layers, attention, tokens and class names of zoo, foreign and plain models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from foreign import import_foreign, import_torchvision
from sweep import probe_model
from sweep_models import huggingface, picture, sentence, text_case, vision_case
from sweep_models import torchvision_case as tv
from torch import Tensor, nn

import limelight as ll
from limelight.probe.errors import ProbeError
from limelight.probe.sites.adapter import Adapter, _readers, adapt

foreign = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.manual_seed(0)


class Block(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(n, n, 3, padding=1), nn.BatchNorm2d(n)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv(x)).relu()


class Net(nn.Module):
    """Blocks as attributes, a chain of chains, and a classifier of leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.down1, self.down2 = Block(4), Block(4)
        self.body = nn.Sequential(nn.Sequential(Block(4), Block(4)), nn.Sequential(Block(4)))
        self.auxiliary = nn.Sequential(Block(4), Block(4))
        self.classifier = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.down2(self.down1(self.stem(x))))
        return self.classifier(x.mean((2, 3)))


def test_blocks_of_a_plain_network() -> None:
    told = adapt(Net())
    assert told.hidden == ("down1", "down2", "body.0.0", "body.0.1", "body.1.0")
    assert told.notes == ("layers guessed: the outermost blocks",)


def test_convolutions_where_there_are_no_blocks() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten())
    assert adapt(net).hidden == ("0", "2")
    assert adapt(net).notes == ("layers guessed: every convolution",)


def test_linear_layers_where_there_is_nothing_else() -> None:
    told = adapt(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    assert (told.hidden, told.notes) == (("0", "2"), ("layers guessed: every linear layer",))


def test_the_guess_is_carried_into_every_result() -> None:
    maps = ll.maps(Net(), picture(16), ["normgrad"], sites="hidden")
    assert len(maps) == 10
    assert all("layers guessed: the outermost blocks" in m.about.notes for m in maps)


@foreign
def test_compiled_parts_are_seen_through() -> None:
    net = Net()
    net.down1 = torch.compile(net.down1)  # type: ignore[assignment]
    whole = torch.compile(net)
    assert adapt(whole).hidden == adapt(Net()).hidden  # type: ignore[arg-type]


def test_attention_of_a_plain_transformer() -> None:
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    told = adapt(net)
    assert told.hidden == ("layers.0", "layers.1")
    assert told.heads == ("layers.0.self_attn", "layers.1.self_attn")


class BloomAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(4, 4)


class HaloAttn(BloomAttention):
    pass


class LinearAttention(BloomAttention):
    pass


class RelativePositionalMultiHeadAttention(BloomAttention):
    pass


class PlainAttention(BloomAttention):
    pass


def test_attention_without_a_map_is_known_by_its_families() -> None:
    """Also where a foreign class stands in a network that no family's reader knows."""
    from limelight.probe.sites import structure

    kinds = (BloomAttention, HaloAttn, LinearAttention, RelativePositionalMultiHeadAttention)
    net = nn.Sequential(*(kind() for kind in kinds), PlainAttention())
    assert adapt(net).heads == ("4",)
    structure.without_map("PlainAtt")
    try:
        assert adapt(net).heads == ()
    finally:
        structure._without_map.remove("PlainAtt")


@pytest.fixture
def own_reader() -> Iterator[None]:
    @ll.adapter
    def read(model: nn.Module) -> Adapter | None:
        return Adapter("mine", hidden=("stem",)) if isinstance(model, Net) else None

    yield
    _readers.remove(read)


@pytest.mark.usefixtures("own_reader")
def test_a_later_reader_overrules() -> None:
    assert adapt(Net()).family == "mine"


@contextmanager
def reading(told: Adapter, kind: type[nn.Module]) -> Iterator[None]:
    """A reader of one's own for a class of models."""

    @ll.adapter
    def read(model: nn.Module) -> Adapter | None:
        return told if isinstance(model, kind) else None

    try:
        yield
    finally:
        _readers.remove(read)


def test_an_adapter_overrules_only_what_it_names() -> None:
    net = Net()
    plain = adapt(net)
    with reading(Adapter("mine", labels=("cat", "dog")), Net):
        assert adapt(net) == replace(plain, family="mine", labels=("cat", "dog"))
        maps = ll.maps(net, picture(16), "gradcam", target=ll.label("dog"))
        assert {str(m.site) for m in maps} == {"body.1.0"}
        assert maps[0].target == "dog (1)"
    with reading(Adapter("mine", prefix=1, notes=("by hand",)), Net):
        assert adapt(net) == replace(
            plain, family="mine", prefix=1, notes=("by hand", *plain.notes)
        )
    assert adapt(net) == plain


def test_an_adapter_may_say_that_there_is_nothing() -> None:
    with reading(Adapter("mine", hidden=(), heads=(), labels=()), Net):
        told = adapt(Net())
    assert (told.hidden, told.heads, told.labels, told.notes) == ((), (), (), ())


@foreign
def test_the_rest_comes_from_the_family() -> None:
    net = tv("resnet18").build()
    family = adapt(net)
    with reading(Adapter("mine", labels=("cat", "dog")), type(net)):
        assert adapt(net) == replace(family, family="mine", labels=("cat", "dog"))


def test_the_meaning_of_last_belongs_to_the_layers() -> None:
    net = ll.load("deit_tiny", weights=None, img_size=32, depth=3)
    assert adapt(net).final == ("blocks.2.norm1",)
    with reading(Adapter("mine", hidden=("blocks.0", "blocks.1")), type(net)):
        told = adapt(net)
    assert (told.final, told.prefix, told.heads) == (("blocks.1.norm1",), 1, adapt(net).heads)
    with reading(Adapter("mine", hidden=("blocks.0:add.0",)), type(net)):
        assert adapt(net).final == ()


def test_readers_are_asked_until_all_is_said() -> None:
    asked: list[str] = []

    def recorded(name: str, told: Adapter | None) -> Callable[[nn.Module], Adapter | None]:
        return lambda model: asked.append(name) or told  # type: ignore[func-returns-value]

    whole = Adapter("whole", ("stem",), (), None, (), ("a",))
    readers = [recorded("first", None), recorded("labels", Adapter("some", labels=("b",))),
               recorded("whole", whole), recorded("never", Adapter("never"))]  # fmt: skip
    for read in reversed(readers):
        ll.adapter(read)
    try:
        assert adapt(Net()) == replace(whole, family="some", labels=("b",))
        assert asked == ["first", "labels", "whole"]
    finally:
        for read in readers:
            _readers.remove(read)


def test_names_of_classes_stay_where_a_reader_names_layers_alone() -> None:
    net = ll.load("resnet18", weights=None)

    def layers(model: nn.Module) -> Adapter | None:
        return Adapter("mine", hidden=("layer2",)) if model is net else None

    ll.adapter(layers)
    try:
        told = adapt(net)
        assert (told.family, told.hidden, len(told.labels)) == ("mine", ("layer2",), 1000)
    finally:
        _readers.remove(layers)


def test_zoo_sites_are_concrete_and_in_order() -> None:
    told = adapt(ll.load("resnet18", weights=None))
    assert told.hidden == tuple(f"layer{s}.{n}" for s in (1, 2, 3, 4) for n in (0, 1))
    assert (told.family, len(told.labels)) == ("limelight", 1000)


@pytest.mark.parametrize(("name", "norm"), [("deit_tiny", "blocks.11.norm1")])
def test_last_is_where_the_class_token_still_reads_patches(name: str, norm: str) -> None:
    net = ll.load(name, weights=None, img_size=32)
    told = adapt(net)
    assert (told.prefix, told.final, told.hidden[-1]) == (1, (norm,), "blocks.11")
    maps = ll.maps(net, picture(32), ["normgrad"], target=ll.label(3), sites="last")
    assert all(m.axes == "y x" and m.values.max() > 0 for m in maps)


@foreign
def test_names_come_from_the_model() -> None:
    assert len(adapt(tv("resnet18").build()).labels) == 0
    net = vision_case("ViTForImageClassification", "sdpa").build()
    assert adapt(net).labels == ()  # its names are LABEL_0, LABEL_1, ...
    net.config.id2label = {0: "cat, house cat", 1: "dog"}
    assert adapt(net).labels == ("cat", "dog")


@foreign
@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_quick_torchvision(name: str) -> None:
    case = tv(name)
    probe_model(name, case.build(), case.example())


@foreign
def test_quick_timm() -> None:
    import_torchvision()
    timm = import_foreign("timm")
    net = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=10, depth=3)
    told = adapt(net)
    assert (told.family, told.prefix, told.final) == ("timm", 1, ("blocks.2.norm1",))
    probe_model("vit_tiny", net, picture(64))


@foreign
def test_quick_timm_windows() -> None:
    import_torchvision()
    timm = import_foreign("timm")
    small = {
        "img_size": 64,
        "window_size": 4,
        "embed_dim": 16,
        "depths": (2, 2),
        "num_heads": (1, 2),
    }
    net = timm.create_model("swin_tiny_patch4_window7_224", num_classes=10, **small)
    probe_model("swin", net, picture(64))  # the first stage is 16 rows, 16 columns, 16 channels


@foreign
@pytest.mark.parametrize("name", ["Dinov2WithRegisters", "Swin"])
def test_quick_hugging_face_vision(name: str) -> None:
    case = vision_case(f"{name}ForImageClassification", "sdpa")
    probe_model(name, case.build(), case.example())


@foreign
@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "T5ForConditionalGeneration"])
def test_quick_hugging_face_text(name: str) -> None:
    case = text_case(name, "eager")
    probe_model(name, case.build(), case.example(), **case.options)


@foreign
def test_loss_and_cache_stay_in_the_output() -> None:
    net = text_case("GPT2LMHeadModel", "sdpa").build()
    with ll.Probe(net) as probe:
        output = probe.watch("hidden")(input_ids=sentence(), labels=sentence())
        probe.backward(lambda out: (-out.loss)[None].expand(2), sites=["hidden"])
        assert output.past_key_values.get_seq_length() == 7
        assert all(value.grad is not None for value in probe.trace.values())


@foreign
def test_flex_attention_is_refused_in_one_sentence() -> None:
    fields = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "vocab_size": 50}
    net = huggingface("LlamaForCausalLM", "flex_attention", "Llama", fields)
    message = "load it with attn_implementation='sdpa' or 'eager'"
    with ll.Probe(net) as probe, pytest.raises(ProbeError, match=message):
        probe(sentence())


@foreign
def test_what_a_model_cached_with_a_graph_is_named() -> None:
    import_torchvision()
    timm = import_foreign("timm")
    net = timm.create_model("levit_128s", num_classes=10).eval()
    net(picture(224, 1))  # in eval mode levit keeps its attention biases, graph and all
    with ll.Probe(net) as probe:
        probe.watch("hidden")(picture(224, 1))
        assert probe.trace.holes

"""Small nets over every kind of signal, with what their values mean and how their score is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

SAMPLES = 3


@dataclass(frozen=True)
class Signal:
    """A net, its input, and the truth about both.

    axes     what the explained input's dimensions mean; of ids, what their embedding's mean
    site     a hidden module and what the dimensions of its value mean
    scores   from the output to `b c`
    options  how a target must be told to read the output
    said     axes that no op tells, as a user would say them
    main     the key or place of the explained tensor among several
    linear   made of linear maps, ReLU and pools: relevance by LRP-0 is input times gradient
    """

    build: Callable[[], nn.Module]
    example: Callable[[], Any]
    axes: str
    site: tuple[str, str]
    scores: Callable[[Any], Tensor] = lambda output: output
    options: dict[str, Any] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    main: Any = None
    linear: bool = False


class Apply(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class Net(nn.Module):
    """A forward over named parts."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


class Scores(NamedTuple):
    features: Tensor
    logits: Tensor


@dataclass
class Answer:
    inner: dict[str, Tensor]
    logits: Tensor


def drawn(*shape: int) -> Tensor:
    return torch.randn(SAMPLES, *shape, generator=torch.Generator().manual_seed(3)).double()


def ids(length: int = 6) -> Tensor:
    return torch.randint(0, 11, (SAMPLES, length), generator=torch.Generator().manual_seed(4))


def averaged(x: Tensor) -> Tensor:
    return x.flatten(2).mean(2)


def conv(dims: int, given: int, made: int, size: int = 3, **options: Any) -> nn.Module:
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return kinds[dims - 1](given, made, size, padding=size // 2, **options)


def stack(dims: int, given: int, *more: nn.Module) -> Callable[[], nn.Module]:
    """Convolutions with ReLU, `more` in their midst, and a linear layer on the averaged maps."""

    def build() -> nn.Module:
        layers = (conv(dims, given, 6), nn.ReLU(), *more, conv(dims, 6, 5), nn.ReLU())
        return nn.Sequential(*layers, Apply(averaged), nn.Linear(5, 4))

    return build


def recurrent(kind: type[nn.RNNBase], **options: Any) -> Callable[[], nn.Module]:
    wide = 2 if options.get("bidirectional") else 1
    first = not options.get("batch_first")

    def forward(net: Any, x: Tensor) -> Tensor:
        return net.head(net.cells(x)[0].mean(0 if first else 1))

    return lambda: Net(forward, cells=kind(4, 6, **options), head=nn.Linear(6 * wide, 4))


def encoder(given: int, **parts: nn.Module) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True)
    return Net(
        lambda net, x: net.head(net.layer(net.embed(x)).mean(1)),
        embed=parts.get("embed", nn.Linear(given, 8)),
        layer=layer,
        head=nn.Linear(8, 4),
    )


def mixing(net: Any, x: Tensor) -> Tensor:
    """`b t c`: a linear layer over time, another over channels."""
    x = x + net.over_time(x.transpose(1, 2)).transpose(1, 2)
    return net.head(net.over_channels(x).relu().mean(1))


def by_frame(net: Any, x: Tensor) -> Tensor:
    """`b t c y x`: pictures one by one, then the frames in order."""
    frames = net.see(x.flatten(0, 1)).relu().mean((2, 3)).unflatten(0, x.shape[:2])
    return net.head(net.tell(frames)[0][:, -1])


def feature_tokens(net: Any, x: Tensor) -> Tensor:
    """A table whose columns become tokens."""
    return net.head(net.layer(x[:, :, None] * net.scale.weight + net.shift.weight).mean(1))


def waves(net: Any, x: Tensor) -> Tensor:
    """A raw wave as a picture of its spectrum."""
    window = torch.hann_window(16, dtype=x.dtype)
    spectrum = torch.stft(x, 16, 8, window=window, return_complex=True).abs()
    return net.head(averaged(net.conv(spectrum[:, None]).relu()))


def with_table(net: Any, picture: Tensor, table: Tensor) -> Tensor:
    return net.head(averaged(net.conv(picture).relu()) + net.embed(table))


def masked(net: Any, series: Tensor, mask: Tensor) -> Tensor:
    kept = net.conv(series).relu() * mask[:, None]
    return net.head(kept.sum(2) / mask.sum(1, keepdim=True))


def words(kind: str) -> nn.Module:
    embed = nn.Embedding(11, 8)
    if kind == "encoder":
        return encoder(8, embed=embed)
    if kind == "lstm":
        return Net(
            lambda net, x: net.head(net.cells(net.embed(x))[0][:, -1]),
            embed=embed, cells=nn.LSTM(8, 6, batch_first=True), head=nn.Linear(6, 4),
        )  # fmt: skip
    return Net(
        lambda net, x: net.head(net.conv(net.embed(x).transpose(1, 2)).relu().amax(2)),
        embed=embed, conv=conv(1, 8, 6), head=nn.Linear(6, 4),
    )  # fmt: skip


def hourglass(dims: int, given: int) -> Callable[[], nn.Module]:
    """Down, up and a shortcut; scores for every place."""
    up = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
    pool = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[dims - 1]

    def forward(net: Any, x: Tensor) -> Tensor:
        wide = net.first(x).relu()
        return net.last(torch.cat([wide, net.up(net.inner(net.pool(wide)).relu())], 1))

    return lambda: Net(
        forward, first=conv(dims, given, 4), pool=pool(2), inner=conv(dims, 4, 4),
        up=up(4, 4, 2, 2), last=conv(dims, 8, 4, 1),
    )  # fmt: skip


def nested(make: Callable[[Tensor, Tensor], Any]) -> Callable[[], nn.Module]:
    def forward(net: Any, x: Tensor) -> Any:
        features = net.conv(x).relu()
        return make(features, net.head(averaged(features)))

    return lambda: Net(forward, conv=conv(2, 3, 5), head=nn.Linear(5, 4))


def tabular(*parts: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*parts, nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


def branches(net: Any, x: Tensor) -> Tensor:
    """Windows of three lengths side by side."""
    return net.head(averaged(torch.cat([net.short(x), net.long(x), net.pool(x)], 1).relu()))


LINES, PICTURES, VOLUMES = drawn(3, 12), drawn(3, 8, 10), drawn(2, 4, 6, 8)
SUMMED = {"scores": lambda output: output.flatten(2).sum(2)}
SIGNALS: dict[str, Signal] = {
    "series": Signal(stack(1, 3), lambda: LINES, "b c t", ("2", "b c t"), linear=True),
    "series, normed": Signal(stack(1, 3, nn.BatchNorm1d(6)), lambda: LINES, "b c t", ("3", "b c t"),
                             linear=True),
    "series, pooled": Signal(stack(1, 3, nn.MaxPool1d(2)), lambda: LINES, "b c t", ("2", "b c t"),
                             linear=True),
    "series, strides": Signal(stack(1, 3, nn.Conv1d(6, 6, 3, 2, groups=6)), lambda: LINES, "b c t",
                              ("2", "b c t"), linear=True),
    "series, dense": Signal(hourglass(1, 3), lambda: LINES, "b c t", ("up", "b c t"),
                            options={"dense": True}, **SUMMED),
    "series, windows": Signal(
        lambda: Net(branches, short=conv(1, 3, 4), long=conv(1, 3, 4, 7),
                    pool=nn.AvgPool1d(3, 1, 1), head=nn.Linear(11, 4)),
        lambda: LINES, "b c t", ("long", "b c t"), linear=True),
    "series, LSTM": Signal(recurrent(nn.LSTM, batch_first=True), lambda: drawn(7, 4), "b t c",
                           ("cells", "b t c")),
    "series, GRU": Signal(recurrent(nn.GRU, batch_first=True, bidirectional=True),
                          lambda: drawn(7, 4), "b t c", ("cells", "b t c")),
    "series, time first": Signal(
        recurrent(nn.LSTM), lambda: drawn(7, 4).transpose(0, 1).contiguous(), "t b c",
        ("cells", "t b c"), said={"input": "t b c"}),
    "series, attention": Signal(lambda: encoder(4), lambda: drawn(7, 4), "b n c",
                                ("layer", "b n c")),
    "series, mixer": Signal(
        lambda: Net(mixing, over_time=nn.Linear(7, 7), over_channels=nn.Linear(4, 6),
                    head=nn.Linear(6, 4)),
        lambda: drawn(7, 4), "b t c", ("over_channels", "b t c"), said={"input": "b t c"},
        linear=True),
    "table": Signal(tabular(nn.Linear(5, 8), nn.Tanh()), lambda: drawn(5), "b c", ("2", "b c")),
    "table, linear": Signal(lambda: nn.Sequential(nn.Linear(5, 4)), lambda: drawn(5), "b c",
                            ("0", "b c"), linear=True),
    "table, normed": Signal(tabular(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU()),
                            lambda: drawn(5), "b c", ("1", "b c"), linear=True),
    "table, tokens": Signal(
        lambda: Net(feature_tokens, scale=nn.Embedding(5, 8), shift=nn.Embedding(5, 8),
                    layer=nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True),
                    head=nn.Linear(8, 4)),
        lambda: drawn(5), "b n", ("layer", "b n c"), said={"input": "b n"}),
    "volumes": Signal(stack(3, 2), lambda: VOLUMES, "b c t y x", ("2", "b c t y x"), linear=True),
    "volumes, dense": Signal(hourglass(3, 2), lambda: VOLUMES, "b c t y x", ("inner", "b c t y x"),
                             **SUMMED),
    "volumes, depth": Signal(stack(3, 2, nn.AvgPool3d(2)), lambda: VOLUMES, "b c z y x",
                             ("2", "b c z y x"), said={"input": "b c z y x"}, linear=True),
    "video": Signal(stack(3, 2, nn.MaxPool3d((1, 2, 2))), lambda: VOLUMES, "b c t y x",
                    ("3", "b c t y x"), linear=True),
    "video, by frame": Signal(
        lambda: Net(by_frame, see=conv(2, 3, 4), tell=nn.LSTM(4, 5, batch_first=True),
                    head=nn.Linear(5, 4)),
        lambda: drawn(4, 3, 6, 8), "b t c y x", ("tell", "b t c")),
    "spectrogram": Signal(stack(2, 1, nn.MaxPool2d(2)), lambda: drawn(1, 12, 16), "b c f t",
                          ("2", "b c f t"), said={"input": "b c f t"}, linear=True),
    "spectrogram, bins": Signal(stack(1, 9, nn.MaxPool1d(2)), lambda: drawn(9, 14), "b c t",
                                ("2", "b c t"), linear=True),
    "words, LSTM": Signal(lambda: words("lstm"), ids, "b n c", ("cells", "b t c")),
    "words, attention": Signal(lambda: words("encoder"), ids, "b n c", ("layer", "b n c")),
    "words, windows": Signal(lambda: words("windows"), ids, "b n c", ("conv", "b c n"),
                             linear=True),
    "picture": Signal(stack(2, 3, nn.MaxPool2d(2)), lambda: PICTURES, "b c y x", ("3", "b c y x"),
                      linear=True),
    "picture, dense": Signal(
        hourglass(2, 3), lambda: PICTURES, "b c y x", ("inner", "b c y x"), **SUMMED
    ),
    "picture and table": Signal(
        lambda: Net(with_table, conv=conv(2, 3, 5), embed=nn.Linear(4, 5), head=nn.Linear(5, 4)),
        lambda: {"picture": PICTURES, "table": drawn(4)}, "b c y x", ("conv", "b c y x"),
        main="picture"),
    "series and mask": Signal(
        lambda: Net(masked, conv=conv(1, 3, 5), head=nn.Linear(5, 4)),
        lambda: {"series": LINES, "mask": (drawn(12) > -0.5).double()}, "b c t",
        ("conv", "b c t"), main="series"),
    "answer in a tuple": Signal(nested(lambda features, logits: (logits, features)),
                                lambda: PICTURES, "b c y x", ("conv", "b c y x"),
                                lambda output: output[0], {"at": "0"}, linear=True),
    "answer in a class": Signal(
        nested(lambda features, logits: Answer({"features": features}, logits)),
        lambda: PICTURES, "b c y x", ("conv", "b c y x"), lambda output: output.logits,
        linear=True),
    "answer by name": Signal(
        nested(Scores), lambda: PICTURES, "b c y x", ("conv", "b c y x"),
        lambda output: output.logits, linear=True),
}  # fmt: skip

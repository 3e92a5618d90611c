"""What limelight knows of a model by name: paper, sites, preprocessing and published weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from ..probe.errors import OptionError
from ..probe.sites import ReadShapes

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

State = dict[str, Tensor]


@dataclass(frozen=True)
class Source:
    """Where one set of published weights lies: a url, a file on the hub, or a pip package's file.

    file       its name on the hub, in the package, or in the zip archive that the url names
    sha256     the whole digest or its first 8 digits
    key        where in the file the state dict lies, when not at the top
    convert    renames the file's entries to those of the model
    extra      what to pip install for a package, or where a download fails
    card       fields of the card that differ for these weights (mean, resize, ...)
    hyper      hyper-parameters that these weights were trained with and no shape tells
    tokenizer  the file beside it on the hub that says how text becomes tokens
    otherwise  where to look when this is not on this machine
    """

    url: str = ""
    hub: str = ""
    package: str = ""
    file: str = ""
    sha256: str = ""
    key: str = ""
    extra: str = ""
    convert: Callable[[State], State] | None = None
    card: Mapping[str, object] = field(default_factory=dict)
    hyper: Mapping[str, object] = field(default_factory=dict)
    tokenizer: str = ""
    otherwise: Source | None = None


Drawn = Literal[
    "channels",
    "mean",
    "norm",
    "pictures",
    "maps",
    "centre",
    "class",
    "connectivity",
    "tables",
    "spectrum",
    "sorted",
    "heads",
    "functions",
    "singular values",
    "token shares",
    "steps",
    "choices",
    "shares",
    "whole maps",
    "values",
    "denominators",
    "decay lengths",
    "sharing",
    "shared entropies",
    "filters",
    "filter energies",
    "gates",
    "gate density",
    "gate mass",
    "points",
    "without",
]
"""What a figure of a mixer draws; `Figure` says what each is."""


@dataclass(frozen=True)
class Figure:
    """One figure that shows what a token mixer does.

    title    a few words
    draw     over the picture: the values of `sites`, their `channels`, the `mean` of their sizes or
             their `norm`; the values as `pictures`, of one or three channels on the scale of
             the input; the `maps` of `methods`; what the `centre` of the picture or the `class`
             token attends to, head by head; of masked attention the `connectivity` of the centre
             beside its softmax without the mask; `token shares`, what each token adds to the
             logit of the likeliest class; `points` that attention at `sites` is over, and lines
             to them from the centre, head by head; `without`, the largest channel of `sites` as
             it is, where `cut` is zero, and the difference
             as pictures of their own: `tables`, values or parameters of at least two dimensions;
             `choices`, of a model that scores `b step k`, the relevance of `sites` for the
             likeliest of each step; over tokens `whole maps`; `sharing`, the head of keys and of
             values that query heads read; `gates` beside pooled attention
             as lines: values `b n` of `sites` over their `steps`; the power `spectrum` of `sites`;
             the means of their channels `sorted`, the largest first; `heads`, one of `methods` over
             depth; the learned `functions` of attention; the `singular values` of scores and maps;
             over tokens the `values` of sites, `denominators` of Taylor attention, `decay lengths`,
             `shared entropies` of query heads by their head of keys and of values, `filters` of
             long convolutions in time and frequency, `filter energies` of static and adaptive
             ones, `gate density`, and `gate mass`, what chosen blocks keep
             as points: the `shares` of `sites` in the sum of the maps of a method
    sites    patterns of sites, or of parameters for tables
    methods  of attention heads, all on one scale, or of maps
    about    what is to be seen, in a sentence
    cut      patterns of sites that are set to zero
    """

    title: str
    draw: Drawn
    sites: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    about: str = ""
    cut: tuple[str, ...] = ()


CENTRE = Figure(
    "Where the centre looks",
    "centre",
    about="What the token in the middle of the picture attends to.",
)
DISTANCE = Figure(
    "How far heads look",
    "heads",
    methods=("nonlocality",),
    about="The mean distance of a query from what it attends to, in tokens.",
)
MAPS = Figure(
    "Who reads whom",
    "whole maps",
    about="The map of each layer: queries down, keys across. Channels stand for heads where a "
    "mixer weighs each by itself.",
)
FILTERS = Figure(
    "Filters",
    "filters",
    about="What a convolution weighs by lag, and which frequencies it lets through; skips are left "
    "out.",
)
ENERGIES = Figure(
    "Energy of filters",
    "filter energies",
    about="The sum of squared taps of the filter that all inputs meet, and of the one that this "
    "input made.",
)
ROW_SUMS = Figure(
    "Row sums",
    "heads",
    methods=("row_sum", "row_sum,bias=false"),
    about="What rows of the map add up to, with the bias of the scores and without it; 1 for a "
    "softmax.",
)


@dataclass(frozen=True)
class Card:
    """One model of the zoo.

    hidden       site patterns of the layers, in order; `*` stands for one name of the path
    heads        attention modules
    prefix       leading tokens that are not patches, None where there are no tokens
    axes         of values whose dimensions no op tells, by address: `(":tokens", "b n c")`
    classifier   the last linear layer
    size         the side of the square input, or (height, width)
    resize       the short side of the photo before the centre crop
    mean, std    on the 0..1 scale
    labels       "imagenet" where output i is class i of ImageNet-1k, or the name of each output
    weights      published weights by tag
    default      the tag that the model's own name means, where it is neither "imagenet" nor the
                 first
    about        top-1 and other remarks
    shows        what its token mixer does, figure by figure
    shapes       what its output draws over a picture: boxes, points, lines
    """

    name: str
    paper: str
    hidden: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    prefix: int | None = None
    axes: tuple[tuple[str, str], ...] = ()
    classifier: str = ""
    size: int | tuple[int, int] = 224
    resize: int = 256
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    labels: str | tuple[str, ...] = "imagenet"
    weights: Mapping[str, Source] = field(default_factory=dict)
    default: str = ""
    about: str = ""
    shows: tuple[Figure, ...] = ()
    shapes: ReadShapes | None = None

    @property
    def usual_weights(self) -> str | None:
        """The tag that the model's name means: the default, "imagenet", the first, or none."""
        tags = [self.default, *(t for t in self.weights if t == "imagenet"), *self.weights]
        return next((tag for tag in tags if tag), None)

    def __post_init__(self) -> None:
        if self.interpolation not in ("bilinear", "bicubic"):
            raise OptionError(
                f"card {self.name!r} asks for {self.interpolation!r} interpolation: "
                "write 'bilinear' or 'bicubic'"
            )
        if self.resize < min(sides(self.size)):
            raise OptionError(
                f"card {self.name!r} resizes to {self.resize}, less than the crop {self.size}: "
                "give a resize of at least the crop"
            )
        if self.default and self.default not in self.weights:
            raise OptionError(
                f"card {self.name!r} means weights {self.default!r} by its name but has none "
                "of that tag: add them to its weights"
            )


def sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width of an input size given as one side or both."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))

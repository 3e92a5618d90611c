"""What users hand to the public calls, as types: inputs, methods, targets, pictures, data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from torch import Tensor, nn

from ..sites import Site
from ..targets import Target
from .registry import MethodSpec

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

MethodName = Literal[
    "ablation",
    "acdc",
    "activation",
    "activation_patching",
    "attention_entropy",
    "attention_gradcam",
    "attention_mass",
    "attribution",
    "band_energy",
    "cam",
    "captum",
    "centre_distance",
    "code_attr",
    "contrastive_excitation_backprop",
    "decay_length",
    "deconvnet",
    "direct_logit",
    "discrete_sae",
    "discrete_sae_edge",
    "diversity",
    "duplicate_token",
    "edge_attribution",
    "eigencam",
    "eigengradcam",
    "excitation_backprop",
    "foveal_mass",
    "gate",
    "generic_attention",
    "gradcam",
    "gradcam_elementwise",
    "gradcam_plus_plus",
    "gradient",
    "gradient_sum",
    "guided_backprop",
    "hirescam",
    "induction",
    "input_x_gradient",
    "integrated_gradients",
    "layercam",
    "linear_approx",
    "linear_probe",
    "logit_rank",
    "lrp",
    "map_rank",
    "mask_recall",
    "mean_difference",
    "mean_weight",
    "meta",
    "mutual_information",
    "negative_codes",
    "negative_mass",
    "nonlocality",
    "norm",
    "normgrad",
    "normgrad_proper",
    "normgrad_selective",
    "null_split",
    "occlusion",
    "path_patching",
    "place_attention",
    "previous_token",
    "raw_attention",
    "rise",
    "rollout",
    "row_sum",
    "salient_relevance",
    "smoothgrad",
    "squaregrad",
    "transformer_attribution",
    "uniform",
    "untrained_sae",
    "vargrad",
    "xgradcam",
]
"""The built-in methods, for editors to complete; any registered name will do."""

MethodLike: TypeAlias = MethodName | MethodSpec
"""A method: its name, options as in `smoothgrad,n=8`; its function; or `limelight.use(...)`."""

Methods: TypeAlias = MethodLike | Iterable[MethodLike]

Sites: TypeAlias = str | Site | nn.Module | Sequence[str | Site | nn.Module] | None
"""Where to read: addresses with wildcards, `hidden`, `last`, `heads`, `input`, modules of the
model; None: as usual."""

TargetLike: TypeAlias = (
    "Target | int | str | np.integer | np.ndarray | Tensor | Callable[[Any], Tensor]"
)
"""What is explained: `limelight.top()`, a class by number or name, a function of the output; a
number of numpy or torch is a class, an array or tensor of them a class per sample."""

Targets: TypeAlias = "TargetLike | Sequence[TargetLike | Sequence[TargetLike]] | None"

Axes: TypeAlias = Mapping[str, str] | None
"""What dimensions mean, by site: `{"input": "b c t", "stem": "b y x c"}`; the batch is `b`."""

Inputs: TypeAlias = Tensor | tuple[object, ...] | Mapping[str, object]
"""A batch as a model takes it: a tensor, a tuple of arguments, or keyword arguments by name."""

Output: TypeAlias = Any
"""Whatever a model returns."""

Picture: TypeAlias = "str | PathLike[str] | bytes | Image | np.ndarray | Tensor"
"""A picture: a file, its bytes, or its pixels (rows, columns, channels; or channels first)."""

Pictures: TypeAlias = "Picture | Sequence[Picture]"
"""One picture, several, or a folder."""


class IndexedData(Protocol):
    """A data set of torch's kind: numbered samples."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> object: ...


Data: TypeAlias = "str | PathLike[str] | IndexedData | Iterable[Picture]"
"""A data set: a folder, a listing, a torch or Hugging Face data set, or pictures."""

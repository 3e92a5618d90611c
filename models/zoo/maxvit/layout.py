"""What tells MaxViT's (arXiv 2204.01697) converted weights (tf) from timm's own (rw)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from ....probe.errors import OptionError
from ...layers import activation


@dataclass(frozen=True)
class MaxVitLayout:
    """The arithmetic of a MaxViT.

    same        pad strided convolutions at the bottom and right, as TensorFlow does
    from_out    the inverted bottleneck expands the channels of its output, not of its input
    se          squeezed channels: a share of the output's, or of the expanded ones
    rel_pos     "tf": a table by key minus query, "swin": by query minus key, "mlp": an MLP
    head_first  qkv channels lie head by head, not q, k, v
    dense       a hidden layer with tanh before the classifier
    layer_scale where the scales of attention blocks start, 0 for none
    """

    same: bool
    from_out: bool
    se: float
    rel_pos: str
    head_first: bool
    dense: bool
    stem_bias: bool
    output_bias: bool
    act_conv: str
    act_tfm: str
    bn_eps: float
    ln_eps: float
    se_act: str = "silu"
    layer_scale: float = 0.0


TANH = "gelu_tanh"
LAYOUTS = {
    "tf": MaxVitLayout(True, True, 0.25, "tf", False, True, True, True, TANH, TANH, 1e-3, 1e-5),
    "rw": MaxVitLayout(
        False, False, 1 / 16, "swin", True, False, False, False, "silu", "gelu", 1e-5, 1e-6
    ),
}
WORDS: dict[str, tuple[str, dict[str, object]]] = {  # option: field, how words start, their meaning
    "padding": ("same", {"same": True, "symmetric": False}),
    "expand_from": ("from_out", {"output": True, "input": False}),
    "qkv": ("head_first", {"[heads]": True, "[3]": False}),
    "rel_pos": (
        "rel_pos",
        {"bias_tf": "tf", "tf": "tf", "swin": "swin", "bias": "swin", "mlp": "mlp"},
    ),
    "head": ("dense", {"ln2d": False, "pool": True}),
}


def layout(name: str, **changes: object) -> MaxVitLayout:
    """The layout of that name with what else is asked for; None changes nothing.

    Raises OptionError for an unknown word.
    """
    if name not in LAYOUTS:
        raise OptionError(f"layout={name!r} is unknown: write 'tf' or 'rw'")
    asked = {key: value for key, value in changes.items() if value is not None}
    if "act" in asked:
        _, both = _read("act", asked.pop("act"))
        asked = {"act_conv": both, "act_tfm": both} | asked
    return replace(LAYOUTS[name], **dict(_read(*option) for option in asked.items()))  # type: ignore[arg-type]


def _read(key: str, value: object) -> tuple[str, object]:
    """A field of the layout and its value."""
    word = str(value).lower()
    if key in WORDS:
        field, meanings = WORDS[key]
        start = next((start for start in meanings if word.startswith(start)), None)
        if start is None:
            listing = " or ".join(map(repr, meanings))
            raise OptionError(f"{key}={value!r} is unknown: write {listing}")
        return field, meanings[start]
    if "act" in key:
        activation(kind := word.split(" ")[0])
        return key, kind
    if key == "se_ratio":
        return "se", float(Fraction(word.split(" ")[0]))
    return key, value

"""What a BVR head is built with, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ....probe.errors import OptionError
from .convolutions import Norm
from .keypoint_head import Selection

SOURCES = ("input", "cls", "reg")


@dataclass(frozen=True)
class HeadOptions:
    """The builder's docstring says what each is."""

    channels: int
    num_classes: int
    anchors_per_location: int
    stacked_convs: int
    keypoint_stacked_convs: int
    keypoint_logits_convs: int
    num_attn_heads: int
    base_size: Sequence[int]
    log_scale: bool
    scale_position: bool
    scale_factor: float
    strides: Sequence[int]
    selection: Selection
    keypoint_pos: str
    with_relative_positional_encoding: bool
    with_appearance_relation: bool
    shared_positional_encoding_inter: bool
    shared_positional_encoding_outer: bool
    reg_cat_pos: bool
    norm: Norm | None

    def __post_init__(self) -> None:
        self._check_places()
        self._check_heads()
        if not (self.with_relative_positional_encoding or self.with_appearance_relation):
            raise OptionError(
                "with_relative_positional_encoding=False and with_appearance_relation=False leave "
                "attention nothing to go by: keep one of them"
            )
        outer, inter = self.shared_positional_encoding_outer, self.shared_positional_encoding_inter
        if outer and not inter:
            raise OptionError(
                "shared_positional_encoding_outer=True shares the geometry of centres with both "
                "corners, but shared_positional_encoding_inter=False asks for one each: leave one "
                "of them out"
            )

    def _check_places(self) -> None:
        if self.keypoint_pos not in SOURCES:
            raise OptionError(
                f"keypoint_pos={self.keypoint_pos!r} is not known: write 'input', 'cls' or 'reg'"
            )
        if not self.strides or any(stride < 1 for stride in self.strides):
            raise OptionError(
                f"strides={tuple(self.strides)} are not the pixels of a place on each level: give "
                "a number above 0 for each"
            )
        if self.scale_factor <= 0:
            raise OptionError(
                f"scale_factor={self.scale_factor} divides positions: give a number above 0"
            )

    def _check_heads(self) -> None:
        if self.num_attn_heads < 1 or self.channels % self.num_attn_heads:
            raise OptionError(
                f"{self.channels} channels do not divide into num_attn_heads="
                f"{self.num_attn_heads}: give a divisor"
            )
        if self.channels % 4:
            raise OptionError(
                f"channels={self.channels} cannot hold sines and cosines of two axes: give a "
                "multiple of 4"
            )
        if len(self.base_size) != 2 or any(side < 2 or side % 2 for side in self.base_size):
            raise OptionError(
                f"base_size={tuple(self.base_size)} is not a width and a height: give two even "
                "numbers"
            )

    @property
    def scales(self) -> list[float]:
        """What positions of each level are divided by."""
        own = self.strides if self.scale_position else [self.strides[0]] * len(self.strides)
        return [stride * self.scale_factor for stride in own]

"""What a stage of MOAT (arXiv 2210.01820) is built of, read from options given once or by stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ....probe.errors import OptionError, near

KINDS = ("mbconv", "moat")
EMBEDDINGS = ("2d_multi_head", None)
WHOLE = ("num_blocks", "hidden_size", "stage_stride", "expansion_rate", "head_size", "pool_size")


@dataclass(frozen=True)
class Stage:
    """One stage: its blocks, and in `moat` ones their attention.

    num_blocks      blocks; the first has the stride `stage_stride`, the others 1
    hidden_size     channels
    expansion_rate  channels inside the inverted bottleneck, as a multiple of its output's
    se_ratio        squeezed channels as a share of the output's, None for no squeeze-excite;
                    read in `mbconv` stages alone
    pool_size       side of the mean on the shortcut where the size changes
    window_size     rows and columns of a window, None for the whole map
    position_embedding_size           P of a bias table of (2 P - 1)^2 offsets
    relative_position_embedding_type  "2d_multi_head", or None for no table
    """

    block_type: str
    num_blocks: int
    hidden_size: int
    stage_stride: int
    expansion_rate: int
    se_ratio: float | None
    head_size: int
    pool_size: int
    window_size: tuple[int, int] | None
    position_embedding_size: int | None
    relative_position_embedding_type: str | None

    def __post_init__(self) -> None:
        if self.block_type not in KINDS:
            hint = near(self.block_type, KINDS) or "; there are 'mbconv' and 'moat'"
            raise OptionError(f"block_type has {self.block_type!r}, which is no block{hint}")
        for name in WHOLE:
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise OptionError(f"{name} has {value!r}: give whole numbers of at least 1")
        if self.se_ratio is not None and not 0 < self.se_ratio <= 1:
            raise OptionError(
                f"se_ratio={self.se_ratio!r} is no share: give 0 < ratio <= 1 or None"
            )
        if self.block_type == "moat":
            self._check_attention()

    def _check_attention(self) -> None:
        if self.hidden_size % self.head_size:
            raise OptionError(
                f"hidden_size {self.hidden_size} of a moat stage does not divide by "
                f"head_size={self.head_size}: give a multiple"
            )
        kind, side = self.relative_position_embedding_type, self.position_embedding_size
        if kind not in EMBEDDINGS:
            raise OptionError(
                f"relative_position_embedding_type={kind!r} is unknown: write '2d_multi_head' "
                "or None"
            )
        if kind is not None and (not isinstance(side, int) or side < 1):
            raise OptionError(
                f"position_embedding_size has {side!r} for a moat stage: give the size that its "
                "bias table is learned for, or relative_position_embedding_type=None"
            )


def read_stages(block_type: Sequence[str], **options: Any) -> list[Stage]:
    """The stages that the options tell; a list gives one value a stage, anything else all the same.

    Raises OptionError for a list of another length and for values that cannot be.
    """
    count = len(block_type)
    options["window_size"] = _windows(options["window_size"], count)
    columns = {name: _by_stage(name, value, count) for name, value in options.items()}
    rows = zip(*columns.values(), strict=True)
    return [
        Stage(kind, **dict(zip(columns, row, strict=True)))
        for kind, row in zip(block_type, rows, strict=True)
    ]


def _by_stage(name: str, value: Any, count: int) -> list[Any]:
    if not isinstance(value, list | tuple):
        return [value] * count
    if len(value) != count:
        raise OptionError(
            f"{name}={list(value)} names {len(value)} stages but block_type names {count}: "
            "give one entry a stage"
        )
    return list(value)


def _windows(value: Any, count: int) -> list[tuple[int, int] | None]:
    """Rows and columns of each stage's windows."""
    if value is not None and not isinstance(value, list | tuple):
        raise OptionError(
            f"window_size={value!r} names no stages: give None, or for each stage None or "
            "(rows, columns)"
        )
    windows = _by_stage("window_size", value, count)
    for window in windows:
        pair = isinstance(window, list | tuple) and len(window) == 2
        if window is not None and not (pair and all(isinstance(s, int) and s > 0 for s in window)):
            raise OptionError(
                f"window_size has {window!r}: give (rows, columns) or None for the map"
            )
    return [None if window is None else (window[0], window[1]) for window in windows]

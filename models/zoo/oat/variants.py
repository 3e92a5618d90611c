"""The shelves of OAT's data sets, and its hyper-parameters by name."""

from __future__ import annotations

from typing import Any

from ....probe.errors import OptionError, near
from ...card import Card, Figure
from ...registry import Variant, register
from .model import OAT
from .objects import ObjectEncoder
from .positions import position_codes
from .shelf import Grid

LAYOUTS = {"amazon": (6, 14), "yogurt": (3, 9), "wine": (2, 11)}


def oat(
    *,
    layout: str | None = None,
    rows: int = 6,
    cols: int = 14,
    patch: tuple[int, int] = (150, 93),
    in_channels: int = 3,
    emb_size: int = 512,
    num_heads: int = 4,
    dim_feedforward: int = 512,
    num_encoder_layers: int = 4,
    num_decoder_layers: int = 4,
    dropout: float = 0.1,
    function_choice: str = "learned",
    alpha: float | None = 0.9,
    change_x: str | None = "None",
    pe: Any = None,
    spp: int = 0,
    ca_version: int = 3,
    ca_head: int = 2,
    ca_d_k: int = 512,
    input_dimension: int = 3,
    objects: int | None = None,
    tgt_vocab_size: int | None = None,
    eos: int | None = None,
    pad: int | None = None,
    bos: int | None = None,
) -> OAT:
    """An OAT.

    layout   a data set, whose rows and columns these must be, or a name of your own for a shelf
    patch    height and width of an object's picture
    function_choice, alpha, change_x, pe   the position codes, see `position_codes`; `pe` is an
             array or a file of it, where the paper's learned table is at hand
    spp      0, or the levels of a pyramid over an object's plane, for pictures of any size
    ca_version   3 scores objects by attention of `ca_head` heads, 0 by a linear map of p + 2 rows
    objects, tgt_vocab_size, eos, pad, bos   follow from rows and cols; others are refused
    Raises OptionError.
    """
    grid = _grid(layout, rows, cols)
    _check_follows(
        grid,
        objects=(objects, grid.objects),
        tgt_vocab_size=(tgt_vocab_size, grid.objects + 2),
        EOS=(eos, grid.end),
        PAD=(pad, grid.padding),
        BOS=(bos, grid.begin),
    )
    _check_sizes(emb_size, num_heads, dropout, ca_version, ca_head)
    sides = (int(patch[0]), int(patch[1]))
    codes = position_codes(
        rows,
        cols,
        emb_size // 2,
        function_choice,
        alpha=0.9 if alpha is None else alpha,
        change_x=str(change_x),
        pe=pe,
    )
    return OAT(
        grid,
        ObjectEncoder(sides, in_channels, emb_size // 2, spp),
        codes,
        width=emb_size,
        heads=num_heads,
        hidden=dim_feedforward,
        encoder_layers=num_encoder_layers,
        decoder_layers=num_decoder_layers,
        dropout=dropout,
        readout_heads=ca_head if ca_version == 3 else 0,
        readout_width=ca_d_k,
        inputs=input_dimension,
    )


def _grid(layout: str | None, rows: int, cols: int) -> Grid:
    """The grid of a shelf. Raises OptionError for a layout of another, or for none at all."""
    if rows < 1 or cols < 1:
        raise OptionError(f"a shelf of rows={rows} and cols={cols} has no objects: give 1 and more")
    if layout is not None and layout not in LAYOUTS and (hint := near(layout, LAYOUTS)):
        raise OptionError(
            f"layout={layout!r} is no shelf of OAT's data sets{hint}; a shelf of your own needs "
            "rows= and cols= alone"
        )
    if layout in LAYOUTS and LAYOUTS[layout] != (rows, cols):
        raise OptionError(
            f"layout={layout!r} has {LAYOUTS[layout][0]} x {LAYOUTS[layout][1]} objects, but the "
            f"model is built for rows={rows} and cols={cols}: load 'oat_{layout}', or leave it out"
        )
    return Grid(rows, cols)


def _check_follows(grid: Grid, **counts: tuple[int | None, int]) -> None:
    """Raise OptionError where a number is not the one that follows from the shelf."""
    for name, (given, wanted) in counts.items():
        if given is not None and given != wanted:
            raise OptionError(
                f"{name}={given} was given, but a shelf of {grid.rows} x {grid.columns} objects "
                f"makes it {wanted}: leave it out, or give other rows= and cols="
            )


def _check_sizes(
    emb_size: int, num_heads: int, dropout: float, ca_version: int, ca_head: int
) -> None:
    """Raise OptionError for what builds no OAT."""
    if emb_size < 2 or emb_size % 2 or num_heads < 1 or emb_size % num_heads:
        raise OptionError(
            f"emb_size={emb_size} must be even, half for the picture and half for its place, and "
            f"divide by num_heads={num_heads}: give a multiple of both"
        )
    if not 0 <= dropout < 1:
        raise OptionError(f"dropout={dropout} is no share: give 0 to below 1")
    if ca_version not in (0, 3):
        raise OptionError(
            f"ca_version={ca_version} is not described: give 3, attention to objects, or 0, a "
            "linear map"
        )
    if ca_version == 3 and ca_head < 1:
        raise OptionError(f"ca_head={ca_head} leaves no read-out: give 1 and more")


VARIANTS = (
    Variant("oat_amazon", build={"rows": 6, "cols": 14}),
    Variant("oat_yogurt", build={"rows": 3, "cols": 9}),
    Variant("oat_wine", build={"rows": 2, "cols": 11}),
)
register(
    oat,
    Card(
        "OAT",
        "OAT: object-level attention transformer for gaze scanpath prediction, arXiv 2407.13335",
        hidden=("transformer_encoder.layers.*", "transformer_decoder.layers.*"),
        heads=(
            "transformer_encoder.layers.*.self_attn",
            "transformer_decoder.layers.*.self_attn",
            "transformer_decoder.layers.*.multihead_attn",
        ),
        axes=((":objects", "b y x c"), (":target", "b n c"), (":fixations", "b n c")),
        labels="",
        shows=(
            Figure(
                "Where the gaze has been",
                "tables",
                sites=(":gaze",),
                about="The scanpath on the shelf, step by step: the number of the fixation that "
                "rested on each object last, 0 where none has.",
            ),
            Figure(
                "Where the gaze goes next",
                "tables",
                sites=(":choice",),
                about="The probability of each object on the shelf, step by step, as far as the "
                "end leaves it; step 0 is before the first fixation.",
            ),
            Figure(
                "When the search ends",
                "steps",
                sites=(":end",),
                about="The probability that the scanpath ends after so many fixations.",
            ),
            Figure(
                "What drove each step",
                "choices",
                sites=(":objects", ":target", ":fixations"),
                about="Relevance of the objects on the shelf, of the target and of the fixations "
                "so far for the likeliest choice; numbers past the objects are end and padding.",
            ),
        ),
        about="no published weights; learned codes of positions are the least of the paper's "
        "loss unless pe= gives the published table; original_update is made from its description",
    ),
    VARIANTS,
)

"""A shelf of objects as token ids: what they mean, where they lie, and which a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ....probe.errors import ModelError, OptionError


@dataclass(frozen=True)
class Grid:
    """Objects in rows and columns, counted along rows; behind them the marks of a scanpath."""

    rows: int
    columns: int

    @property
    def objects(self) -> int:
        return self.rows * self.columns

    @property
    def end(self) -> int:
        """The id that ends a scanpath."""
        return self.objects

    @property
    def padding(self) -> int:
        """The id that fills a batch."""
        return self.objects + 1

    @property
    def begin(self) -> int:
        """The id that a scanpath begins with."""
        return self.objects + 2

    def places(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and columns of ids; a scanpath begins in the middle of the shelf."""
        begins = ids == self.begin
        row = torch.where(begins, self.rows // 2, ids // self.columns)
        return row, torch.where(begins, self.columns // 2, ids % self.columns)

    def tokens(self, paths: Sequence[Sequence[int]]) -> Tensor:
        """Scanpaths, lists of objects, as a batch of ids: begin, the objects, end, padding.

        Raises OptionError for objects that the shelf has not.
        """
        longest = max((len(path) for path in paths), default=0)
        for path in paths:
            self._check(path)
        rows = [
            [self.begin, *path, self.end] + [self.padding] * (longest - len(path)) for path in paths
        ]
        return torch.tensor(rows, dtype=torch.long)

    def _check(self, path: Sequence[int]) -> None:
        outside = [i for i in path if not 0 <= i < self.objects]
        if outside:
            raise OptionError(
                f"a scanpath holds object {outside[0]}, but a shelf of {self.rows} x "
                f"{self.columns} has 0 to {self.objects - 1}: leave the marks out, and count from 0"
            )

    def paths(self, sequence: Tensor) -> list[list[int]]:
        """The objects of each row of ids `b n`, up to its end."""
        found = []
        for row in sequence.tolist():
            stop = next((i for i, x in enumerate(row) if x in (self.end, self.padding)), len(row))
            found.append([x for x in row[:stop] if x != self.begin])
        return found

    def rested(self, sequence: Tensor) -> Tensor:
        """Where the gaze has rested so far, `b n rows columns`: the number of the last fixation.

        Places that it has not been to hold 0. sequence: ids `b n`, as `tokens` gives them
        """
        at = sequence[..., None] == torch.arange(self.objects, device=sequence.device)
        numbers = torch.arange(sequence.shape[1], device=sequence.device)[:, None]
        return (at * numbers).cummax(1).values.unflatten(-1, (self.rows, self.columns))

    def check_shelf(self, shelf: Tensor, target: Tensor) -> None:
        """Raise ModelError for a shelf of other objects, or targets that are none of them."""
        if shelf.ndim != 5 or shelf.shape[1] != self.objects:
            raise ModelError(
                f"a shelf of shape {tuple(shelf.shape)} was given, but the model is for "
                f"{self.rows} x {self.columns} objects: give b {self.objects} y x channels, or "
                "build the model with other rows= and cols="
            )
        if target.shape != shelf.shape[:1] or target.is_floating_point():
            raise ModelError(
                f"targets of shape {tuple(target.shape)} and type {target.dtype} do not belong to "
                f"{len(shelf)} shelves: give the number of an object for each"
            )
        self._check_range(target, self.objects, "target", "objects")

    def check_sequence(self, sequence: Tensor, samples: int, most: int) -> None:
        """Raise ModelError for ids that are no scanpaths of these shelves."""
        if sequence.ndim != 2 or len(sequence) != samples or sequence.is_floating_point():
            raise ModelError(
                f"a sequence of shape {tuple(sequence.shape)} and type {sequence.dtype} does not "
                f"belong to {samples} shelves: give ids b n, such as tokens(paths)"
            )
        if not 0 < sequence.shape[1] <= most:
            raise ModelError(
                f"a scanpath of {sequence.shape[1]} ids was given, but the model knows 1 to {most} "
                "steps: give a shorter one"
            )
        self._check_range(sequence, self.begin + 1, "id", "objects and marks")
        if bool((sequence[:, 0] != self.begin).any()) or bool(
            (sequence[:, 1:] == self.begin).any()
        ):
            raise ModelError(
                f"a scanpath begins with the id {self.begin} and has it nowhere else, but "
                f"{sequence[0].tolist()} was given first: use tokens(paths)"
            )

    def _check_range(self, ids: Tensor, count: int, what: str, of: str) -> None:
        wrong = ids[(ids < 0) | (ids >= count)]
        if len(wrong):
            raise ModelError(
                f"{what} {int(wrong[0])} was given, but a shelf of {self.rows} x {self.columns} "
                f"has {of} 0 to {count - 1}: count from 0 along the rows"
            )

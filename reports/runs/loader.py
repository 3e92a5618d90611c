"""Samples decoded ahead of the model, in worker processes; what cannot be read says so."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...models.inputs import Box, Recipe, make_ready, read
from ..datasets import Sample, Samples


@dataclass(frozen=True, eq=False)
class Loaded:
    """A sample as the model takes it, or the reason why it cannot be had.

    place   its number in the data set
    crop    the part of the picture that the model sees, empty where there is no picture
    """

    place: int
    sample: Sample
    tensor: Tensor | None
    crop: Box | tuple[()] = ()
    error: str = ""


class Feed(Dataset):
    """The samples at some places, read and preprocessed one by one."""

    def __init__(self, samples: Samples, places: Sequence[int], how: Recipe) -> None:
        self.samples, self.places, self.how = samples, places, how

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, k: int) -> Loaded:
        place = self.places[k]
        row = self.samples[place]
        try:
            item, row = self.samples.open(place, row)
            if isinstance(item, Tensor) and not _pixels(item):
                return Loaded(place, row, item)
            tensor, crop = make_ready(self.how, read(item))
        except Exception as error:
            return Loaded(place, row, None, (), _told(error))
        return Loaded(place, row, tensor, crop)


def _pixels(item: Tensor) -> bool:
    """Whether a tensor is a picture still to be preprocessed: bytes, not a ready input."""
    return item.dtype == torch.uint8


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip() or 'no message'}"


def feed(samples: Samples, places: Sequence[int], how: Recipe, workers: int) -> Iterator[Loaded]:
    """The samples in order; when a worker dies, this process reads on by itself and says so."""
    done = 0
    if workers > 0 and len(places) > 1:
        try:
            for one in _loader(Feed(samples, places, how), workers):
                yield one
                done += 1
        except RuntimeError as error:
            if "worker" not in str(error).lower():
                raise
            first = str(error).partition("\n")[0]
            warnings.warn(
                f"a decoding worker died ({first}); reading goes on without workers", stacklevel=2
            )
    rest = Feed(samples, places, how)
    yield from (rest[k] for k in range(done, len(places)))


def _loader(data: Feed, workers: int) -> DataLoader[Any]:
    return DataLoader(
        data,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=16,
        worker_init_fn=_quiet,
    )


def _quiet(worker: int) -> None:
    """Leave interrupts to the parent, which finishes its shard; decode on one thread."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)

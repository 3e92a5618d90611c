"""Samples decoded ahead of the model, in worker processes; what cannot be read says so."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch.utils.data import DataLoader, Dataset

from ..datasets import Preparation, Ready, Sample, Samples


@dataclass(frozen=True, eq=False)
class Loaded:
    """A sample as the model takes it, or the reason why it cannot be had.

    place   its number in the data set
    """

    place: int
    sample: Sample
    ready: Ready | None
    error: str = ""


class PreparedSamples(Dataset[Loaded]):
    """The samples at some places, read and prepared one by one."""

    def __init__(self, samples: Samples, places: Sequence[int], preparation: Preparation) -> None:
        self.samples, self.places, self.preparation = samples, places, preparation

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, k: int) -> Loaded:
        place = self.places[k]
        sample = self.samples[place]
        try:
            item, sample = self.samples.open(place, sample)
            return Loaded(place, sample, replace(self.preparation(item), seen=()))
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).strip() or 'no message'}"
            return Loaded(place, sample, None, reason)


def load_samples(
    samples: Samples, places: Sequence[int], preparation: Preparation, workers: int
) -> Iterator[Loaded]:
    """The samples in order; when a worker dies, this process reads on by itself and says so."""
    data = PreparedSamples(samples, places, preparation)
    done = 0
    if workers > 0 and len(places) > 1:
        try:
            for loaded in _loader(data, workers):
                yield loaded
                done += 1
        except RuntimeError as error:
            if "worker" not in str(error).lower():
                raise
            first = str(error).partition("\n")[0]
            warnings.warn(
                f"a decoding worker died ({first}); reading goes on without workers", stacklevel=2
            )
    yield from (data[k] for k in range(done, len(places)))


def _loader(data: PreparedSamples, workers: int) -> DataLoader[Loaded]:
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

"""Multi-query associative recall (Zoology, arXiv 2312.04927): which value followed a key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...probe.errors import OptionError

IGNORED = -100  # the label of positions that are not asked


@dataclass(frozen=True, eq=False)
class Recall:
    """Sequences that begin with pairs of a key and its value, and later name each key once more.

    inputs   `b n`, token ids: k1 v1 k2 v2 ..., then the keys among other tokens
    labels   `b n`: at a key's second place its value, elsewhere -100
    queries  `b k`: the second place of each key, in the order of the pairs
    """

    inputs: Tensor
    labels: Tensor
    queries: Tensor

    @property
    def num_kv_pairs(self) -> int:
        """Pairs of a key and a value in each sequence."""
        return self.queries.shape[1]

    @property
    def input_seq_len(self) -> int:
        """Tokens of each sequence."""
        return self.inputs.shape[1]

    @cached_property
    def values(self) -> Tensor:
        """The place of each pair's value, `k`: where a map should look from the query."""
        return 2 * torch.arange(self.num_kv_pairs, device="cpu") + 1

    @cached_property
    def gaps(self) -> Tensor:
        """Tokens from a value to where it is asked for, `b k`."""
        return self.queries - self.values

    def __len__(self) -> int:
        return len(self.inputs)

    def correct(self, logits: Tensor) -> Tensor:
        """Whether the most likely token is the value, `b k`, from logits `b n vocabulary`.

        Raises OptionError for logits of other sequences.
        """
        if logits.shape[:2] != self.inputs.shape:
            raise OptionError(
                f"logits of {tuple(logits.shape)} do not fit sequences "
                f"{tuple(self.inputs.shape)}: give `b n vocabulary` of the same ones"
            )
        found = logits.detach().argmax(-1).to(self.labels.device)
        return (found == self.labels).gather(1, self.queries)

    def accuracy(self, logits: Tensor) -> float:
        """The share of queries that are answered, as a mean over sequences."""
        return float(self.correct(logits).float().mean(1).mean())

    def accuracy_by_gap(self, logits: Tensor, edges: Sequence[int]) -> dict[tuple[int, int], float]:
        """The share answered among queries with a gap from one edge to before the next.

        Slices without a query are left out. Pairs and length are the same for all sequences of one
        set: slices by those are sets of their own.
        """
        right, found = self.correct(logits), {}
        for low, high in pairwise(edges):
            inside = (self.gaps >= low) & (self.gaps < high)
            if bool(inside.any()):
                found[low, high] = float(right[inside].float().mean())
        return found

    def loss(self, logits: Tensor) -> Tensor:
        """Cross entropy over the queries."""
        labels = self.labels.to(logits.device)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def mqar(
    *,
    vocab_size: int = 8192,
    num_examples: int = 1000,
    input_seq_len: int = 64,
    num_kv_pairs: int = 4,
    seed: int = 0,
    power_a: float = 0.01,
    random_non_queries: bool = True,
    torch_seed: int | None = None,
    num_passes: int = 1,
) -> Recall:
    """The published generator, number for number.

    Keys come from the lower half of the vocabulary, values from the upper; the second places of
    keys lie at even steps behind the pairs, each step i with a chance like power_a i^(power_a - 1).
    seed        of numpy's legacy stream: keys, values and places
    random_non_queries   other places behind the pairs hold random tokens, which may be keys or
                values, else 0
    torch_seed  of torch's stream, which those come from; left out they come from torch's global
                one, as published
    Global streams are not touched otherwise. Raises OptionError for sizes that do not fit.

    Example:
        >>> ll.mqar(vocab_size=64, num_examples=4, input_seq_len=32, num_kv_pairs=4).inputs.shape
        torch.Size([4, 32])
    """
    _check(vocab_size, num_examples, input_seq_len, num_kv_pairs, power_a, num_passes)
    stream, examples, pairs = np.random.RandomState(seed), range(num_examples), num_kv_pairs
    half, space = vocab_size // 2, (input_seq_len - 2 * pairs) // 2

    def drawn(start: int, stop: int, p: np.ndarray | None = None) -> np.ndarray:
        return np.stack([
            stream.choice(np.arange(start, stop), size=pairs, replace=False, p=p) for _ in examples
        ])  # fmt: skip

    keys, values = drawn(1, half), drawn(half, vocab_size)
    chances = power_a * np.arange(1, space + 1) ** (power_a - 1)
    queries = 2 * pairs + 2 * drawn(0, space, chances / chances.sum())
    inputs = np.zeros((num_examples, input_seq_len), dtype=np.int64)
    labels = np.full_like(inputs, IGNORED)
    inputs[:, 0 : 2 * pairs : 2], inputs[:, 1 : 2 * pairs : 2] = keys, values
    np.put_along_axis(inputs, queries, keys, 1)
    np.put_along_axis(labels, queries, values, 1)
    ids = torch.from_numpy(inputs)
    if random_non_queries:
        draw = None if torch_seed is None else torch.Generator("cpu").manual_seed(torch_seed)
        other = torch.randint(vocab_size, ids.shape, generator=draw, device="cpu")
        ids = torch.where(ids == 0, other, ids)
    return Recall(ids, torch.from_numpy(labels), torch.from_numpy(queries))


def mqar_seeds(seed: int, train: int, test: int) -> tuple[list[int], list[int]]:
    """The seeds of a configuration's segments: those for training, then those for tests."""
    stream, half = np.random.RandomState(seed), 2**31
    first = stream.randint(0, half, size=train, dtype=np.int64)
    then = stream.randint(half, 2 * half, size=test, dtype=np.int64)
    return first.tolist(), then.tolist()


def _check(
    vocabulary: int, examples: int, length: int, pairs: int, power: float, passes: int
) -> None:
    if length % 2 or vocabulary <= length:
        raise OptionError(
            f"input_seq_len={length} with vocab_size={vocabulary}: give an even length below the "
            "vocabulary's size"
        )
    if pairs < 1 or 4 * pairs > length:
        raise OptionError(
            f"num_kv_pairs={pairs} do not fit input_seq_len={length}: give at least one pair, and "
            "four tokens a pair"
        )
    if examples < 1 or power <= 0:
        raise OptionError(
            f"num_examples={examples} and power_a={power} must be at least 1 and above 0"
        )
    if passes != 1:
        raise OptionError(f"num_passes={passes} fails in the published generator: leave it at 1")

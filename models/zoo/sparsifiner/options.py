"""What the options of a Sparsifiner must be to fit each other."""

from __future__ import annotations

from collections.abc import Sequence

from ....probe.errors import OptionError


def keep_rates(name: str, rates: float | Sequence[float], depth: int) -> list[float]:
    """One rate a layer. Raises OptionError for a list of another length and rates outside 0..1."""
    listed = [rates] * depth if isinstance(rates, int | float) else list(rates)
    if len(listed) != depth:
        raise OptionError(
            f"{name} has {len(listed)} rates for {depth} layers: give one each, or one number"
        )
    bad = [rate for rate in listed if not 0 < rate <= 1]
    if bad:
        raise OptionError(f"{name} holds {bad[0]}, but a share that is kept lies in 0 < share <= 1")
    return listed


def check_options(
    dim: int, heads: int, depth: int, pruning: Sequence[int], rates: Sequence[float]
) -> None:
    """Raise OptionError for a width that heads do not divide, or tokens that cannot be pruned."""
    if heads < 1 or dim % heads:
        raise OptionError(
            f"a width of {dim} does not divide into {heads} heads: "
            "give an embed_dim that is a multiple of num_heads"
        )
    places = sorted(pruning)
    if len(set(places)) != len(places) or not all(0 <= place < depth for place in places):
        raise OptionError(
            f"token_pruning_layers={list(pruning)} are no layers of {depth}: "
            f"give different numbers from 0 to {depth - 1}"
        )
    left = [rates[place] for place in places]
    if left != sorted(left, reverse=True):
        raise OptionError(
            f"token_keep_rate_list keeps {left} of the patches at the layers {places}, but what is "
            "pruned does not come back: give shares that do not grow"
        )

"""WKV of RWKV-4 (arXiv 2305.13048, equation 16): a softmax of keys that decay, by channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import KernelError
from ..kernel import kernel
from ..shared import wide


def wkv_map(rows: slice, k: Tensor, v: Tensor, decay: Tensor, bonus: Tensor) -> Tensor:
    """softmax over s <= t of k_s + (t - 1 - s) decay, of k_t + bonus at s = t; `b c r n`.

    Channels take the place of heads.
    """
    places = torch.arange(k.shape[2], device=k.device)
    apart = places[rows, None] - places
    steps = (apart - 1).clamp(min=0) * wide(decay)[:, None, None]
    steps = torch.where(apart == 0, wide(bonus)[:, None, None], steps)
    scores = wide(k).mT + steps.masked_fill(apart < 0, -torch.inf)
    return scores.softmax(-1)


@kernel("wkv", share=("v",), hold=("k", "decay", "bonus"), mixing=wkv_map, fast="triton_op")
def wkv(k: Tensor, v: Tensor, decay: Tensor, bonus: Tensor) -> Tensor:
    """o_t = sum_{s<=t} e^{x_ts} v_s / sum_{s<=t} e^{x_ts}, each channel on its own.

    x_ts = k_s + (t - 1 - s) decay for s < t, and x_tt = k_t + bonus.
    k v: b c n 1, channels in the place of heads -> b c n 1; decay, bonus: c, decay <= 0 is the
    logarithm of what a token keeps of its weight from one step to the next.
    Sums of pairs, of pairs of pairs and so on, each over its own maximum: no exponent is
    positive, and there are log2 n steps. In float32. Raises KernelError for shapes that do not fit.
    """
    _check(k, v, decay, bonus)
    empty = Sums(*(wide(k).new_full((*k.shape[:2], 1), x) for x in (0.0, 0.0, -torch.inf)))
    out, _ = _means(k, v, decay, bonus, empty)
    return out


def wkv_state(
    k: Tensor, v: Tensor, decay: Tensor, bonus: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The scan that starts from a state and returns the next one, `b c 3` in float32.

    A state holds sum e^{x - m} v, sum e^{x - m} and m, the largest x. For decoding: a token costs
    a few products a channel.
    """
    _check(k, v, decay, bonus)
    if state is None:
        state = wide(k).new_tensor([0.0, 0.0, -torch.inf]).expand(*k.shape[:2], 3)
    if state.shape != (*k.shape[:2], 3):
        raise KernelError(
            f"a state of {tuple(state.shape)} does not fit k: give the one of an earlier call, "
            f"{(*k.shape[:2], 3)}, or none"
        )
    out, after = _means(k, v, decay, bonus, Sums(*state.unsqueeze(-2).unbind(-1)))
    return out, torch.cat([after.values, after.weights, after.most], -1)


@dataclass(frozen=True)
class Sums:
    """sum e^{x - most} v, sum e^{x - most} and most of runs of tokens, each `b c n`.

    most is a constant: what the sums stand for does not depend on it, and no gradient goes there.
    """

    values: Tensor
    weights: Tensor
    most: Tensor

    def at(self, part: slice) -> Sums:
        """Some of the runs."""
        return Sums(*(x[:, :, part] for x in self.parts))

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.values, self.weights, self.most


def _means(k: Tensor, v: Tensor, decay: Tensor, bonus: Tensor, state: Sums) -> tuple[Tensor, Sums]:
    """The result from a state, and the state behind the last token."""
    dtype, shape = v.dtype, v.shape
    k, v, decay, bonus = wide(k)[..., 0], wide(v)[..., 0], wide(decay), wide(bonus)
    most = k.detach()
    weights = (k - most).exp()
    tokens = Sums(weights * v, weights, most)
    runs = zip(state.parts, tokens.parts, strict=True)
    states = _scan(Sums(*(torch.cat([x.to(y), y], 2) for x, y in runs)), decay[:, None])
    before, own = states.at(slice(None, -1)), k + bonus[:, None]
    most = torch.maximum(before.most, own.detach())
    past, weight = (before.most - most).exp(), (own - most).exp()
    above, below = past * before.values + weight * v, past * before.weights + weight
    return (above / below).to(dtype).reshape(shape), states.at(slice(-1, None))


def _scan(x: Sums, decay: Tensor) -> Sums:
    """The sums from the first run to each: over pairs of runs first, then over those between.

    decay   `c 1`, of one whole run
    """
    n = x.most.shape[2]
    if n == 1:
        return x
    pairs = _joined(x.at(slice(0, n - 1, 2)), x.at(slice(1, None, 2)), decay)
    second = _scan(pairs, 2 * decay)
    rest = x.at(slice(2, None, 2))
    third = _joined(second.at(slice(rest.most.shape[2])), rest, decay)
    return Sums(
        *(
            _alternating(torch.cat([first[:, :, :1], odd], 2), even)
            for first, odd, even in zip(x.parts, third.parts, second.parts, strict=True)
        )
    )


def _joined(left: Sums, right: Sums, decay: Tensor) -> Sums:
    """Runs next to each other as one: the left one decays over the right one."""
    most = torch.maximum(left.most + decay.detach(), right.most)
    by_left, by_right = (left.most + decay - most).exp(), (right.most - most).exp()
    return Sums(
        by_left * left.values + by_right * right.values,
        by_left * left.weights + by_right * right.weights,
        most,
    )


def _alternating(first: Tensor, second: Tensor) -> Tensor:
    """One of the first, one of the second, and so on; the first may have one more."""
    count = second.shape[2]
    both = torch.stack([first[:, :, :count], second], 3).flatten(2)
    return torch.cat([both, first[:, :, count:]], 2)


def _check(k: Tensor, v: Tensor, decay: Tensor, bonus: Tensor) -> None:
    fits = k.ndim == 4 and k.shape == v.shape and k.shape[3] == 1 and k.shape[2] > 0
    if not fits or decay.shape != k.shape[1:2] or bonus.shape != k.shape[1:2]:
        shapes = ", ".join(str(tuple(x.shape)) for x in (k, v, decay, bonus))
        raise KernelError(f"wkv takes k and v b c n 1, decay and bonus c, not {shapes}")

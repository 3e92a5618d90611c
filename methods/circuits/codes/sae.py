"""One sparse autoencoder shared by all heads, its codes by argmax (O'Neill and Bui, 2405.12522).

z = relu(W_e (x - b) + b_e), x' = W_d z + b, loss = mean (x' - x)^2 + l1 mean over (example, head)
of sum_k z_k. A code names a direction in which a head writes; a head far from the origin gets many.
Scores on codes need the controls of `discrete.py`: an untrained encoder (`steps=0`) scored as high
as a trained one wherever both were tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ....probe.errors import OptionError
from .sae_gradients import Rows, SaeState, gradients
from .sae_options import DEFAULT, Dead, Options

_ROWS = 8192  # rows encoded at a time


@dataclass(frozen=True, eq=False)
class SharedSae:
    """Autoencoders of several seeds: encoder `s k m`, decoder `s m k`, code_bias `s k`, bias `s m`.

    loss    before each step, `s t`
    chosen  the training examples, `s i`
    scale   what each head was multiplied by, `h`, or None
    """

    encoder: Tensor
    decoder: Tensor
    code_bias: Tensor
    bias: Tensor
    loss: Tensor
    chosen: Tensor
    seeds: tuple[int, ...]
    options: Options
    scale: Tensor | None = None

    @torch.no_grad()
    def encode(self, x: Tensor, out: Tensor | None = None, *, dead: Dead = "zero") -> Tensor:
        """The strongest code of each example and head, `s e h`; x `e h m`, or as in `fit`.

        dead   what an all-zero z gives: code `zero`, 0, as published, where it cannot be told from
               the real code 0; or a code of its `own`, -1
        """
        if dead not in ("zero", "own"):
            raise OptionError(f"dead={dead!r}: write 'zero' (as published) or 'own' (-1)")
        _check(x, out)
        size, trained_size = (x if out is None else out).shape[-1], self.bias.shape[-1]
        if size != trained_size:
            raise OptionError(
                f"it was trained on outputs of size {trained_size}, not {size}: pass such"
            )
        offset = self.code_bias
        if self.options.tied:
            offset = offset - (self.encoder @ self.bias[..., None])[..., 0]
        return torch.stack(
            [
                _codes(x, out, w, o, self.scale, dead)
                for w, o in zip(self.encoder, offset, strict=True)
            ]
        )

    def dead_share(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """The share of (example, head) with all-zero z, `s`."""
        return dead_share(self.encode(x, out, dead="own"))


def dead_share(codes: Tensor) -> Tensor:
    """The share of -1 among codes `... e h` made with `dead="own"`, `...`."""
    return (codes < 0).double().mean((-2, -1))


@torch.no_grad()
def fit(
    x: Tensor,
    out: Tensor | None = None,
    *,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    labels: Tensor | None = None,
    options: Options = DEFAULT,
) -> SharedSae:
    """Train one shared autoencoder per seed on the outputs of all heads with Adam, full batch.

    x       what heads add to the residual stream, `e h m`, pooled over positions by the caller
            (mean as published, or last); with `out` `h d m`, the factor `z` `e h d` of x = z out
    seeds   each draws its own examples and initial weights; the others change nothing in it
    labels  bool `e`, for `alpha` only
    Seeds run one after another: their rows stay in the cache, which beat one stacked product.
    """
    _check(x, out)
    if not seeds:
        raise OptionError("no seeds were given: pass at least one")
    if options.examples > len(x):
        raise OptionError(f"examples={options.examples}, but there are only {len(x)}: ask for less")
    if options.alpha and (labels is None or labels.shape != x.shape[:1]):
        raise OptionError("alpha compares positives and negatives: pass labels, one per example")
    scale = _equal(x, out) if options.equalise else None
    runs = [_train(x, out, labels, scale, seed, options) for seed in seeds]
    states, losses, chosen = zip(*runs, strict=True)
    return SharedSae(
        torch.stack([s.encoder for s in states]),
        torch.stack([s.decoder.T for s in states]),
        torch.stack([s.code_bias for s in states]),
        torch.stack([s.bias for s in states]),
        torch.stack(losses),
        torch.stack(chosen),
        tuple(seeds),
        options,
        scale,
    )


def _train(
    x: Tensor,
    out: Tensor | None,
    labels: Tensor | None,
    scale: Tensor | None,
    seed: int,
    options: Options,
) -> tuple[SaeState, Tensor, Tensor]:
    """One seed: its state, losses `t` and examples."""
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(x), generator=draw)[: options.examples].to(x.device)
    rows = Rows.of(_outputs(x[chosen], out, scale), None if labels is None else labels[chosen])
    state = SaeState.drawn(options.codes, rows.x.shape[1], draw, rows.x)
    adam = torch.optim.Adam([state.flat], lr=options.lr, fused=True)
    dimension = 0 if options.unit == "rows" else 1
    losses = rows.x.new_zeros(options.steps)
    _unit(state, dimension)
    for step in range(options.steps):
        if options.renormalise:
            _unit(state, dimension)
        losses[step] = gradients(state, rows, options)
        if options.project:
            _project(state.encoder, state.slope.encoder, 1)
            _project(state.decoder, state.slope.decoder, dimension)
        adam.step()
    if options.renormalise:
        _unit(state, dimension)
    return state, losses, chosen


def _unit(state: SaeState, dimension: int) -> None:
    """Encoder rows, and the decoder along `dimension`, to norm 1."""
    state.encoder.div_(state.encoder.norm(dim=1, keepdim=True))
    state.decoder.div_(state.decoder.square().sum(dimension, keepdim=True).sqrt_())


def _project(weight: Tensor, slope: Tensor, dimension: int) -> None:
    """Remove from `slope` its part along each unit vector of `weight`."""
    slope.addcmul_(weight, (slope * weight).sum(dimension, keepdim=True), value=-1)


def _outputs(x: Tensor, out: Tensor | None, scale: Tensor | None) -> Tensor:
    """What heads write, `e h m` float."""
    whole = x if out is None else torch.einsum("ehd,hdm->ehm", x, out)
    whole = whole if whole.is_floating_point() and whole.element_size() >= 4 else whole.float()
    return whole if scale is None else whole * scale[:, None]


def _equal(x: Tensor, out: Tensor | None) -> Tensor:
    """The factor per head that gives all of them the average head's mean norm, `h`."""
    norms = torch.stack([_outputs(part, out, None).norm(dim=-1).sum(0) for part in x.split(16)])
    mean = norms.sum(0) / len(x)
    return torch.where(mean > 0, mean.mean() / mean, 1.0)


def _codes(
    x: Tensor, out: Tensor | None, encoder: Tensor, offset: Tensor, scale: Tensor | None, dead: Dead
) -> Tensor:
    """Codes of one seed, `e h`; with factors, `out` meets the encoder once for all examples."""
    folded = None if out is None else out.to(encoder.dtype) @ encoder.T
    parts = []
    for part in x.to(encoder.dtype).split(max(1, _ROWS // x.shape[1])):
        if folded is None:
            score = part.flatten(0, 1) @ encoder.T
        else:
            score = torch.bmm(part.transpose(0, 1), folded).transpose(0, 1)
        score = score.reshape(*part.shape[:2], -1)
        if scale is not None:
            score = score * scale[:, None]
        best, code = (score + offset).max(-1)
        parts.append(code.masked_fill_(best <= 0, -1 if dead == "own" else 0))
    return torch.cat(parts)


def _check(x: Tensor, out: Tensor | None) -> None:
    fits = x.dim() == 3 and x.numel() and (out is None or out.shape[:2] == x.shape[1:])
    if not fits:
        raise OptionError(
            f"outputs have shape {tuple(x.shape)} and the factor "
            f"{None if out is None else tuple(out.shape)}: pass x `e h m`, or z `e h d` and "
            "out `h d m`"
        )
    if not bool(x.isfinite().all()):
        raise OptionError("outputs hold NaN or infinite values: an autoencoder cannot be fitted")

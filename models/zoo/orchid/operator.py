"""Orchid's operator (arXiv 2402.18508): a long convolution whose filter the input makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ....kernels.long_convolution import long_convolution
from ....kernels.shared import wide
from ....probe.errors import OptionError
from ....probe.mark import mark
from ...layers import HyenaFilter, Modulation
from .conditioning import ConvKernel, conditioning
from .filters import Filters
from .transforms import Transform, transform

PAPER = "Orchid: flexible and data-dependent convolution for sequence modeling, arXiv 2402.18508"
FIXED = {"order": 2}  # the published code cannot run with more


class StaticFilter(HyenaFilter):
    """A filter `d l` made from the position, whose features are trained."""

    def __init__(
        self, dim: int, order: int, l_max: int, emb_dim: int, inner: int, w: float
    ) -> None:
        super().__init__(dim, order, l_max, emb_dim, inner, w, Modulation(dim, 0.3, 1.5, 0.01, 0.0))
        self.pos_emb.z.requires_grad_()


class Residual(StaticFilter):
    """k * u + bias u on tokens `b n c`, beside the gated one; ports v, filter, skip and map."""

    def __init__(self, dxt: Transform, *sizes: Any) -> None:
        super().__init__(*sizes)
        self.dxt = dxt

    def forward(self, u: Tensor) -> Tensor:  # type: ignore[override]
        dxt, n = self.dxt, u.shape[1]
        waves = dxt.waves(dxt.forward(super().forward(n), n))
        v = dxt.extended(u.mT)[..., None]
        return long_convolution(v, waves, skip=self.bias, circular=True)[:, :, :n, 0].mT


class OrchidOperator(nn.Module):
    """out(x0 * ((k + h(p)) * (x1 v) + bias x1 v) + k' * u + bias' u), tokens `b n c` to the like.

    [x0 | x1 | v] is the projection p(u), shortly convolved; h is made from p's last channels before
    that. The convolution goes round: what is last is before what is first, also with `causal`.
    Ports v, gate_in (x1), gate_out (x0), filter, heads and map of the op, channels as heads. The
    filter is a half spectrum, bias included. Under a cosine transform all of them go on with the
    mirror image of the tokens, see `Transform.extended`; `dxt.folded` makes a map of tokens alone.
    Relevance: the static filter keeps its part of the sum of filters, as a bias does.
    Marks: `kernel_fixed`, `1 n c`, and `kernel_adapt`, `b c f`, in time where causal, else in
    frequency; `filters` reads both.
    causal     whether the adaptive filter is cut to n taps in time; else it is as long as it comes
    lr, lr_pos_emb   learning rates of the static filters and of their positions, for training:
               `learning_rates` names them
    """

    def __init__(
        self,
        d_model: int,
        *,
        l_max: int,
        filter_order: int = 64,
        residual_long_conv: str | None = "sconv",
        short_filter_order: int = 3,
        emb_dim: int = 3,
        num_inner_mlps: int = 2,
        w: float = 1,
        causal: bool = True,
        dxt: str = "fft",
        conv_kernel: Mapping[str, Any] | None = None,
        lr: float | None = None,
        lr_pos_emb: float | None = 1e-5,
    ) -> None:
        super().__init__()
        _check(residual_long_conv, short_filter_order, filter_order, num_inner_mlps)
        self.l_max, self.causal, self.dxt = l_max, causal, transform(dxt)
        self.lr, self.lr_pos_emb = lr, lr_pos_emb
        inner = 3 * d_model
        self.in_linear, self.out_linear = nn.Linear(d_model, inner), nn.Linear(d_model, d_model)
        pad = short_filter_order - 1
        self.conv1d_short = nn.Conv1d(inner, inner, short_filter_order, groups=inner, padding=pad)
        sizes = (d_model, filter_order, l_max, emb_dim, num_inner_mlps, w)
        self.fixed_conv = StaticFilter(*sizes)
        self.fixed_conv_res = Residual(self.dxt, *sizes) if residual_long_conv else None
        form = ConvKernel.of(conv_kernel)
        self.conv_kernel_nn = conditioning(d_model, self.dxt, form, causal=causal)

    def forward(self, u: Tensor) -> Tensor:
        n = self.dxt.checked(u.shape[1], self.l_max)
        p = self.in_linear(u)
        x0, x1, v = (self.dxt.extended(x) for x in self.short(p).chunk(3, 1))
        waves = self.dxt.waves(self.spectrum(p.chunk(3, -1)[2]))
        waves = waves + wide(self.fixed_conv.bias)[:, None]  # the transform of a first tap
        out = long_convolution(v[..., None], waves, gate_in=x1, gate_out=x0, circular=True)
        out = out[:, :, :n, 0].mT
        if self.fixed_conv_res is not None:
            out = out + self.fixed_conv_res(u)
        return self.out_linear(out)

    def short(self, p: Tensor) -> Tensor:
        """The projection convolved with a few taps, causally, `b c n`."""
        return self.conv1d_short(p.mT)[..., : p.shape[1]]

    def spectrum(self, x: Tensor) -> Tensor:
        """The static filter and the adaptive one in frequency, `b c f`."""
        n = x.shape[1]
        static, made = self.static(n), self.adaptive(x)
        if self.causal:
            return self.dxt.forward(static + made, n)
        return self.dxt.forward(static, n) + made

    def static(self, n: int) -> Tensor:
        """The filter of every sequence, in time, `c n`."""
        return mark("kernel_fixed", self.fixed_conv(n).mT[None])[0].mT

    def adaptive(self, x: Tensor) -> Tensor:
        """The filter that a sequence makes, `b c f`: in time where causal, else in frequency."""
        n, made = x.shape[1], self.conv_kernel_nn(x)
        if self.causal:
            points: int = self.conv_kernel_nn.points(n)  # type: ignore[operator]
            made = self.dxt.inverse(made, points)[..., :n]
        return mark("kernel_adapt", made)

    def filters(self, kernel_fixed: Tensor, kernel_adapt: Tensor) -> Filters:
        """What the marks of these names held, as filters in time and in frequency.

        t = ll.trace(model, x, ["blocks.0.attn:kernel_fixed", "blocks.0.attn:kernel_adapt"])
        """
        n = kernel_fixed.shape[1]
        static = self.dxt.forward(kernel_fixed.mT, n)
        made = self.dxt.forward(kernel_adapt, n) if self.causal else kernel_adapt
        return Filters(static, made, n, self.dxt)

    @property
    def learning_rates(self) -> dict[str, float]:
        """Those of the parameters that are trained at another rate than the rest, by name."""
        rates: dict[str, float] = {}
        for name, _ in self.named_parameters():
            if ".implicit_filter." in name and self.lr is not None:
                rates[name] = self.lr
            if name.endswith("pos_emb.z") and self.lr_pos_emb is not None:
                rates[name] = self.lr_pos_emb
        return rates


def _check(residual: str | None, short: int, order: int, inner: int) -> None:
    if residual not in ("sconv", None):
        raise OptionError(
            f"residual_long_conv={residual!r} is not known: give 'sconv', or None for none"
        )
    if short < 1 or order < 1 or inner < 0:
        raise OptionError(
            f"short_filter_order={short}, filter_order={order} and num_inner_mlps={inner} of an "
            "Orchid must be at least 1, 1 and 0"
        )

"""Attention whose map is a learned function of its scores (KArAt, arXiv 2503.10632)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ....kernels.kan import BASE_FUNCTIONS, BASES, ORDERS, KanForm, Order, kan_attention
from ....probe.errors import ModelError, OptionError, near


@dataclass(frozen=True)
class KanOptions:
    """How the learned maps of a model are built.

    rank       r of the reduced rows, 12 in the paper
    grid_size  G, frequencies of the Fourier basis; the other bases have their own sizes
    scales     learned scales of the base function and of the basis, one number a function each
    universal  one operator a head for all blocks (GnU) instead of one for each (GnB)
    """

    rank: int = 12
    grid_size: int = 3
    basis: str = "fourier"
    base: str = "zero"
    order: Order = "w_phi"
    simplex: bool = False
    scales: bool = True
    universal: bool = False
    softmax_heads: tuple[int, ...] = ()

    def checked(self, num_heads: int) -> KanOptions:
        """Itself. Raises OptionError for what cannot be built with that many heads."""
        for name, value, known in (
            ("basis", self.basis, BASES),
            ("base", self.base, BASE_FUNCTIONS),
            ("order", self.order, ORDERS),
        ):
            if value not in known:
                hint = near(value, known) or "; there are " + ", ".join(known)
                raise OptionError(f"learned maps have no {name} {value!r}{hint}")
        if self.rank < 1 or self.grid_size < 1:
            raise OptionError(
                f"rank={self.rank} and grid_size={self.grid_size} of learned maps must be at "
                "least 1"
            )
        heads = self.softmax_heads
        if len(set(heads)) != len(heads) or not set(heads) < set(range(num_heads)):
            raise OptionError(
                f"softmax_heads={heads} of {num_heads} heads: name some, each once and counted "
                "from 0, and leave one whose map is learned"
            )
        return self

    @property
    def form(self) -> KanForm:
        return KanForm(self.basis, self.base, self.order, self.simplex, self.softmax_heads)


class KanOperator(nn.Module):
    """The functions and the projector of all learned heads, for rows of `tokens` scores.

    a, b `h p q g` and the scales `h p q`, W `h m r`, and for two sets of functions a2, b2, ...;
    `kan_attention` says what each order takes. a, b start normal (table 6), of wavelets the offset
    at 0 and the scale at 1; W as a linear layer does and the scales at one, which the paper leaves
    open.
    """

    def __init__(self, num_heads: int, tokens: int, options: KanOptions) -> None:
        super().__init__()
        self.tokens, self.form = tokens, options.checked(num_heads).form
        h, r, n = num_heads - len(options.softmax_heads), options.rank, tokens
        p, q = {"phi_w": (n, r), "phi": (n, n)}.get(options.order, (r, n))
        self._functions("", (h, p, q), options)
        if options.order in ("w_phi", "phi_w"):
            out, into = (n, r) if options.order == "w_phi" else (r, n)
            self.W = nn.Parameter(torch.empty(h, out, into).uniform_(-1, 1) * into**-0.5)
        if options.order == "phi_phi":
            self._functions("2", (h, n, r), options)

    def _functions(self, mark: str, shape: tuple[int, int, int], options: KanOptions) -> None:
        sizes = (n or options.grid_size for n in BASES[options.basis].sizes)
        a, b = (torch.randn(*shape, n) for n in sizes)
        if options.basis not in ("fourier", "rational"):
            b = torch.tensor([0.0, 1.0]).expand(*shape, 2).clone()
        tensors = {"a": a, "b": b}
        if options.scales:
            tensors |= {"scale_base": torch.ones(shape), "scale_sp": torch.ones(shape)}
        for name, x in tensors.items():
            self.register_parameter(name + mark, nn.Parameter(x))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.attend(q, k, v)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """sigma(q k' / sqrt(d)) v over `b h n d`, as an op of the module that asks.

        Raises ModelError for another number of keys.
        """
        if k.shape[2] != self.tokens:
            raise ModelError(
                f"learned maps of {self.tokens} tokens were given {k.shape[2]}: their weights fix "
                "the number, give pictures of the size that the model was built for"
            )
        return kan_attention(q, k, v, **dict(self.named_parameters()), **self.form.options)


class KanAttention(nn.Module):
    """Multi-head attention with learned maps over `b n c`; ports q, k, v, a, b, W, heads, map.

    Universal functions are the model's, which hands them over with each call.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool,
        drop: float,
        tokens: int,
        options: KanOptions,
    ) -> None:
        super().__init__()
        self.num_heads, self.form = num_heads, options.form
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.karat = None if options.universal else KanOperator(num_heads, tokens, options)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop)

    def forward(self, x: Tensor, shared: KanOperator | None = None) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        operator = self.karat if shared is None else shared
        assert operator is not None
        out = operator.attend(q, k, v)
        return self.proj_drop(self.proj(out.transpose(1, 2).reshape(b, n, c)))

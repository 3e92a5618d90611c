"""Based (arXiv 2402.18668): attention whose exponential is its Taylor series to second order."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from ....kernels.taylor import taylor_attention, taylor_state
from ....probe.errors import OptionError
from ...card import Figure
from ...layers import Memory
from .decoding import count_on
from .mixers import mixer

VIEWS = ("linear", "quadratic")

DENOMINATORS = Figure(
    "Denominators",
    "denominators",
    about="What Taylor attention divides by, for each token seen: 1 where scores are near zero, "
    "large where their squares rule.",
)


@mixer("based", "zoology.mixers.based.Based")
class Based(nn.Module):
    """proj_o(taylor_attention(proj_q x, proj_k x, proj_v x)); ports q, k, v, heads and map.

    feature_dim         channels of a query and of a key by head; scores are scaled by their root
    num_heads           how many heads; as many of keys and values, num_key_value_heads
    l_max               the most tokens, any number where left out
    eps                 is added to the sum of weights
    train_view          how the published code adds up, "linear" or "quadratic"; the sum is one, and
                        so is the way here
    """

    shows: ClassVar[tuple[Figure, ...]] = (DENOMINATORS,)

    def __init__(
        self,
        d_model: int,
        *,
        layer_idx: int = 0,
        l_max: int | None = None,
        feature_dim: int = 16,
        num_key_value_heads: int | None = None,
        num_heads: int = 1,
        feature_name: str = "taylor_exp",
        eps: float = 1e-12,
        train_view: str = "linear",
    ) -> None:
        super().__init__()
        if feature_name != "taylor_exp":
            raise OptionError(f"feature_name {feature_name!r} is not known: give 'taylor_exp'")
        if train_view not in VIEWS:
            raise OptionError(f"train_view {train_view!r} is not known: give one of {VIEWS}")
        if num_key_value_heads not in (None, num_heads):
            raise OptionError(
                f"{num_heads} heads of queries and {num_key_value_heads} of keys and values were "
                "asked of Based, whose heads have each their own: give one number for both"
            )
        if num_heads < 1 or d_model % num_heads:
            raise OptionError(
                f"d_model={d_model} does not divide into num_heads={num_heads}: give a divisor"
            )
        if feature_dim < 1:
            raise OptionError(f"feature_dim={feature_dim} of Based is not positive: give 1 or more")
        self.num_heads, self.feature_dim, self.eps, self.l_max = num_heads, feature_dim, eps, l_max
        self.proj_q = nn.Linear(d_model, feature_dim * num_heads, bias=False)
        self.proj_k = nn.Linear(d_model, feature_dim * num_heads, bias=False)
        self.proj_v = nn.Linear(d_model, d_model, bias=False)
        self.proj_o = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """Tokens `b n c`; with a memory the scan goes on from the state of earlier calls.

        Raises OptionError for more than l_max tokens.
        """
        q, k, v = (self.split(layer(x)) for layer in (self.proj_q, self.proj_k, self.proj_v))
        count_on(x, memory, self.l_max)
        if memory is None:
            out = taylor_attention(q, k, v, eps=self.eps)
        else:
            out, memory["state"] = taylor_state(q, k, v, memory.get("state"), eps=self.eps)
        return self.proj_o(out.transpose(1, 2).flatten(2))

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def state_size(self, length: int) -> int:
        """A value for each feature and channel, and a sum for each feature, by head."""
        features = (self.feature_dim + 1) * (self.feature_dim + 2) // 2
        return features * (self.proj_o.in_features + self.num_heads)

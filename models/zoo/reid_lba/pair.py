"""How alike two pictures are, as a model of both: relevance then lies on each of them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ....probe.errors import OptionError
from ...card import State


class SimilarityOfTwo(nn.Module):
    """The cosine of two embeddings of one network, `b 1`, for a query and a gallery's picture.

    Inputs `query` and `gallery`, `b c y x` each. cos = sum_d q_d g_d / (|q| |g|): the lengths are
    held, and each product's relevance goes to either picture by halves. Checkpoints of the network
    load too. Raises OptionError for a network that returns scores beside the embedding.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        if getattr(net, "return_logits", False):
            raise OptionError(
                "a similarity of two pictures compares embeddings, but return_logits=True was "
                "given: leave it out"
            )
        self.net = net

    def convert_state(self, state: State) -> State:
        """Entries of a file of the network itself, under the names they have here."""
        own = all(name.startswith("net.") for name in state)
        return state if own else {f"net.{name}": value for name, value in state.items()}

    def forward(self, query: Tensor, gallery: Tensor) -> Tensor:
        one, other = (F.normalize(self.net(x), dim=1) for x in (query, gallery))
        return (one * other).sum(1, keepdim=True)

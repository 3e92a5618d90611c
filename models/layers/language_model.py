"""What language models share: the way from token ids to logits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from ...probe.errors import OptionError
from ...probe.sites import Tokenizer
from ..card import State
from .checkpointing import Checkpointing
from .init import init_weights
from .norms import RmsNorm
from .sequence import Cache


def config_activation(word: str) -> str:
    """The activation that config.json of a language model means: its "gelu" is by tanh."""
    return "gelu_tanh" if word == "gelu" else word


class Trunk(nn.Module):
    """Embeddings under the name that hub files give them, blocks and the last norm.

    A block takes tokens `b n c`, where no padding is (`b n`, or None) and its memory or None.
    """

    def __init__(
        self, name: str, vocabulary: int, dim: int, blocks: Sequence[nn.Module], eps: float
    ) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, nn.Embedding(vocabulary, dim))
        self.layers = nn.ModuleList(blocks)
        self.norm = RmsNorm(dim, eps)

    @property
    def table(self) -> nn.Embedding:
        """The embeddings."""
        return getattr(self, self.name)


class LanguageModel(Checkpointing, nn.Module):
    """Token ids `b n` in, logits `b n vocabulary` out; no dropout. Weights bring `tokenizer`."""

    tokenizer: Tokenizer | None = None

    def __init__(self, trunk: Trunk, *, tied: bool, std: float) -> None:
        super().__init__()
        self.model, self.tied = trunk, tied
        table = trunk.table.weight
        self.lm_head = nn.Linear(table.shape[1], table.shape[0], bias=False)
        draw = partial(nn.init.normal_, std=std)
        init_weights(self, nn.Linear, nn.Conv1d, nn.Embedding, draw=draw)
        if tied:
            self.lm_head.weight = table

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        logits_to_keep: int = 0,
    ) -> Tensor:
        """Logits, of the last `logits_to_keep` tokens where that is not 0.

        attention_mask   `b n`, 0 at padding, which is as if removed: each sequence gives what it
                         gives alone, and its padding meaningless logits; of a longer mask
                         the last n columns count
        cache            decoding: the call goes on where the last one with it ended
        """
        keep = kept_tokens(attention_mask, input_ids)
        x = self.model.table(input_ids)
        for n, block in enumerate(self.model.layers):
            memory = None if cache is None else cache.memory(n)
            x = self.through(block, x, keep) if cache is None else block(x, keep, memory)
        if cache is not None:
            cache.length += input_ids.shape[1]
        return self.lm_head(self.model.norm(x[:, -logits_to_keep:]))

    def convert_state(self, state: State) -> State:
        """A file's entries under this model's names; tied embeddings serve twice."""
        state = in_trunk(state)
        if self.tied and (name := f"model.{self.model.name}.weight") in state:
            state.setdefault("lm_head.weight", state[name])
        return state


def in_trunk(state: State) -> State:
    """The entries with the prefix of the trunk, in files that lack it or lost it in reading."""
    if any(name.startswith("model.") for name in state):
        return state
    return {n if n.startswith("lm_head.") else f"model.{n}": x for n, x in state.items()}


def kept_tokens(mask: Tensor | None, ids: Tensor) -> Tensor | None:
    """Where no padding is, `b n`. Raises OptionError for a mask of another shape."""
    if mask is None:
        return None
    if mask.ndim != 2 or len(mask) != len(ids) or mask.shape[1] < ids.shape[1]:
        raise OptionError(
            f"an attention mask of {tuple(mask.shape)} does not fit ids {tuple(ids.shape)}: "
            "give 1 or 0 for each token of each sequence"
        )
    return mask[:, -ids.shape[1] :].bool()

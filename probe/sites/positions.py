"""How many tokens a model takes at a time, as far as it tells."""

from __future__ import annotations

from torch import nn

from ..errors import OptionError

LONGEST = 8192  # tokens at a time of a model that does not tell
_NAMES = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")


def positions(model: nn.Module) -> int:
    """The positions that the model's configuration says it has, else `LONGEST`."""
    config = getattr(model, "config", None)
    config = getattr(config, "text_config", None) or config
    said = (getattr(config, name, None) for name in _NAMES)
    return next((n for n in said if isinstance(n, int) and n > 0), LONGEST)


def check_length(count: int, longest: int, what: str) -> None:
    """Raise OptionError, before any pass, for more tokens than a model takes."""
    if count > longest:
        raise OptionError(
            f"{what} has {count:,} tokens, but the model is given {longest:,} at most: shorten it"
        )

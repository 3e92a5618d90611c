"""The width of attention from that of its heads."""

from __future__ import annotations

from ....probe.errors import OptionError


def attention_width(
    embed_dim: int | None, head_dim: int | None, num_heads: int, *, usual: int
) -> int:
    """The whole width, heads x head_dim; of neither, heads x `usual`.

    Raises OptionError where the two do not fit.
    """
    dim = embed_dim or (head_dim or usual) * num_heads
    other = head_dim and embed_dim and head_dim * num_heads != dim
    if num_heads < 1 or dim % num_heads or other:
        raise OptionError(
            f"embed_dim={embed_dim}, head_dim={head_dim} and num_heads={num_heads} do not fit: "
            "give a width that is heads x head_dim"
        )
    return dim

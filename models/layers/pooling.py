"""How tokens become one vector."""

from __future__ import annotations

from ...probe.errors import OptionError, near

POOLS = {"token": "token", "class token": "token", "avg": "avg", "mean": "avg"}


def pooling(word: str) -> str:
    """The pooling of that name: "token" or "avg". Raises OptionError for an unknown one."""
    if word not in POOLS:
        hint = near(word, POOLS) or "; there are " + ", ".join(POOLS)
        raise OptionError(f"there is no pooling {word!r} of tokens{hint}")
    return POOLS[word]

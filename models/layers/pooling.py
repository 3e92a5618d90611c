"""How tokens become one vector."""

from __future__ import annotations

POOLS = {"token": "token", "class token": "token", "avg": "avg", "mean": "avg"}

"""A short form of the soak trial: an interrupted call leaves nothing, and the next is right."""

from __future__ import annotations

import interrupts


def test_interrupted_calls_leave_nothing_behind():
    assert interrupts.trial(30, 0) == (30, 30)

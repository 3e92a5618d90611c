"""What counts as held in a trial: one sentence or a right result, in time, and nothing foreign."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable
from types import FrameType

from limelight.probe.errors import LimelightError

_SECONDS = 60


def fault(act: Callable[[], str]) -> str:
    """What is wrong with an act, which tells itself what is wrong with its result; "" if nothing.

    One sentence of limelight's own is an answer; another error, or none within a minute, is not.
    """

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(_SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return act()
    except LimelightError as error:
        return "" if one_sentence(str(error)) else f"no sentence: {str(error)[:200]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def one_sentence(text: str) -> bool:
    """Whether a person is told something, on one line."""
    return bool(text.strip()) and "\n" not in text.strip() and "Traceback" not in text

"""The root of the family of errors, and the one error of kernels."""

from __future__ import annotations

import re

_WORD, _SENTENCE = 200, 2000  # characters that are shown of one word, and of all


class LimelightError(Exception):
    """Base of every error that limelight raises on purpose.

    Words that are longer than a line, such as paths without end, are cut in the middle.

    Example:
        >>> try:
        ...     ll.maps(net, x, "gradcan", target=1)
        ... except ll.LimelightError as error:
        ...     print(error)
        method 'gradcan' is unknown; did you mean 'gradcam' or 'xgradcam' or 'gradient'?
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(_brief(a) if isinstance(a, str) else a for a in args))


def _brief(text: str) -> str:
    if len(text) <= _WORD:
        return text
    words = re.sub(rf"\S{{{_WORD + 1},}}", lambda word: _cut(word[0], _WORD), text)
    return _cut(words, _SENTENCE)


def _cut(text: str, most: int) -> str:
    """Text without its middle; how much is missing."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}[{len(text) - 2 * half} more]{text[-half:]}"


class KernelError(LimelightError, ValueError):
    """An op called with arguments that do not fit each other, or a fast path that cannot run."""

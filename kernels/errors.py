"""The root of the family of errors, and the one error of kernels."""

from __future__ import annotations


class LimelightError(Exception):
    """Base of every error that limelight raises on purpose."""


class KernelError(LimelightError, ValueError):
    """An op called with arguments that do not fit each other, or a fast path that cannot run."""

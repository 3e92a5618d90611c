"""Arrays as RGB pictures: grey, colour, with alpha, 8 or 16 bits, or floats in 0..1."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ...probe.errors import ImageError

CHANNELS = (1, 3, 4)
SLACK = 1e-3  # floats this far outside 0..1 come from resizing and are clipped


def from_array(array: np.ndarray) -> Image.Image:
    """An array `y x`, `y x c` or `c y x` as RGB; a fourth channel is alpha over white.

    Raises ImageError for other shapes, kinds or values.
    """
    pixels = _channels_last(array)
    if 0 in pixels.shape:
        raise ImageError(f"an array of shape {array.shape} has no pixels: give at least one")
    eight = _eight_bits(pixels)
    if eight.shape[-1] == 4:
        alpha = eight[..., 3:].astype(np.float32) / 255
        mixed = eight[..., :3] * alpha + 255 * (1 - alpha)
        eight = np.rint(mixed).astype(np.uint8)
    if eight.shape[-1] == 1:
        eight = eight.repeat(3, -1)
    return Image.fromarray(np.ascontiguousarray(eight))


def wide_to_8bit(values: np.ndarray, mode: str, what: str) -> Image.Image:
    """PIL's wide greys as 8-bit grey; raises ImageError where their scale is open."""
    if values.size and mode == "F":
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        if not np.isfinite(values).all() or low < 0 or high > 255:
            raise ImageError(
                f"{what} holds floats from {low:g} to {high:g}: scale them to 0..1 first"
            )
        grey = values * 255 if high <= 1 else values
    else:
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise ImageError(f"{what} holds 32-bit values: scale them to 8 or 16 bits first")
        grey = values / 257
    return Image.fromarray(np.rint(grey).astype(np.uint8))


def _channels_last(array: np.ndarray) -> np.ndarray:
    if array.ndim == 2:
        return array[..., None]
    if array.ndim == 3 and array.shape[-1] in CHANNELS:
        return array
    if array.ndim == 3 and array.shape[0] in CHANNELS:
        return array.transpose(1, 2, 0)
    raise ImageError(
        f"an array of shape {array.shape} is no picture: give y x, y x c or c y x with 1, 3 or 4 "
        "channels, and several pictures as a list"
    )


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * 255
    if pixels.dtype == np.uint16:
        return np.rint(pixels / 257).astype(np.uint8)
    if pixels.dtype.kind not in "iuf":
        raise ImageError(f"an array of {pixels.dtype} is no picture: give uint8 or floats in 0..1")
    low, high = pixels.min(), pixels.max()
    if pixels.dtype.kind in "iu":
        if low < 0 or high > 255:
            raise ImageError(f"integers from {low} to {high} are no picture: scale them to 0..255")
        return pixels.astype(np.uint8)
    if not (low >= -SLACK and high <= 1 + SLACK):
        raise ImageError(
            f"floats from {low:g} to {high:g} are no picture: give 0..1, and pass what is already "
            "normalised to the model itself, as inputs= of limelight.explain"
        )
    return np.rint(pixels.clip(0, 1) * 255).astype(np.uint8)

"""Pictures of any kind as RGB; what cannot be read is an ImageError of one sentence."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ...probe.attribution import Picture
from ...probe.errors import ImageError
from .arrays import from_array, wide_to_8bit
from .paths import address_fault, missing

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2"}
)
MOST_PIXELS = 64_000_000
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, KeyError)

Read = tuple[Image.Image, int]


def read(source: Picture) -> Image.Image:
    """A picture as an 8-bit RGB image, upright by its EXIF tag.

    Transparent parts lie on white, 16-bit values are scaled, of an animation the first frame
    counts (with a warning). Arrays and tensors are y x, y x c or c y x: uint8, uint16, bool, or
    floats in 0..1. Raises ImageError.

    Example:
        >>> ll.read(ll.example("flower")).size
        (640, 427)
    """
    if isinstance(source, Tensor):
        kept = source.detach().cpu()
        return from_array((kept.float() if kept.is_floating_point() else kept).numpy())
    if isinstance(source, np.ndarray):
        return from_array(source)
    if isinstance(source, Image.Image):
        return _explained("the given image", lambda: _rgb(source, "the given image"))
    if isinstance(source, bytes | bytearray | memoryview):
        return _decode(bytes(source), f"picture of {len(bytes(source))} bytes")
    if isinstance(source, str | Path):
        if fault := address_fault(source, "picture"):
            raise ImageError(fault)
        return _decode(_bytes(Path(source).expanduser()), f"picture {str(source)!r}")
    raise ImageError(
        f"a {type(source).__name__} is no picture: give a path, bytes, a PIL image, "
        "an array or a tensor"
    )


def images(folder: str | Path) -> list[Path]:
    """All picture files under a folder, in order of path; hidden ones are left out.

    Raises ImageError when the folder is missing or holds none.

    Example:
        >>> len(ll.images(ll.example("flower").parent))
        2
    """
    if fault := address_fault(folder, "folder"):
        raise ImageError(fault)
    root = Path(folder).expanduser()
    if root.is_file():
        raise ImageError(f"{str(folder)!r} is a file: give the folder, or read() the picture")
    if not root.is_dir():
        raise ImageError(f"folder {str(folder)!r} {missing(root)}")
    paths = [path for path in root.rglob("*") if _is_picture(path, root)]
    if not paths:
        raise ImageError(
            f"folder {str(folder)!r} holds no pictures: files ending in "
            f"{' '.join(sorted(SUFFIXES))} count"
        )
    return sorted(paths)


def _is_picture(path: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return path.suffix.lower() in SUFFIXES and not hidden and path.is_file()


def _bytes(path: Path) -> bytes:
    try:
        if not path.exists():
            raise ImageError(f"picture {str(path)!r} {missing(path)}")
        if not (path.is_file() or path.is_dir()):
            raise ImageError(f"picture {str(path)!r} is a pipe or a device: give a file")
        return path.read_bytes()
    except IsADirectoryError:
        raise ImageError(
            f"picture {str(path)!r} is a folder: list its pictures with images()"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"picture {str(path)!r} cannot be opened: {reason}") from error


def _decode(data: bytes, what: str) -> Image.Image:
    if not data:
        raise ImageError(f"{what} is empty: fetch it again")

    def decode() -> Read:
        with Image.open(BytesIO(data)) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ImageError(
                    f"{what} has {image.width} x {image.height} pixels, more than the "
                    f"{MOST_PIXELS // 10**6} million that are read: make it smaller, or decode it "
                    "yourself and give the array"
                )
            return _rgb(image, what)

    return _explained(what, decode)


def _explained(what: str, decode: Callable[[], Read]) -> Image.Image:
    """Turn what PIL raises, or warns of where warnings are errors, into an ImageError."""
    try:
        image, frames = decode()
    except ImageError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise _bomb(what) from None
    except UnidentifiedImageError:
        raise ImageError(
            f"{what} is in no format that Pillow reads: save it as PNG or JPEG"
        ) from None
    except (*DAMAGE, UserWarning) as error:
        raise ImageError(f"{what} is damaged ({error}): fetch or save it again") from error
    if frames > 1:
        warnings.warn(f"{what} has {frames} frames: only one is used", stacklevel=4)
    return image


def _bomb(what: str) -> ImageError:
    return ImageError(
        f"{what} has more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels: make it smaller, or "
        "raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
    )


def _rgb(image: Image.Image, what: str) -> Read:
    """The picture in RGB and its number of frames; a phone's MPO holds previews, not frames."""
    if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise _bomb(what)
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    image.load()
    if 0 in image.size:
        raise ImageError(f"{what} is {image.width} x {image.height}: give at least one pixel")
    image = _upright(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = wide_to_8bit(np.asarray(image), image.mode, what)
    if image.has_transparency_data:
        return _over_white(image.convert("RGBA")), frames
    return (image.copy() if image.mode == "RGB" else image.convert("RGB")), frames


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image) or image
    except (*DAMAGE, TypeError, UserWarning):
        return image


def _over_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")

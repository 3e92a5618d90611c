"""Hostile pictures: alone and in a run, each is explained by finite maps or is one sentence."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from soak_verdict import fault, one_sentence

import limelight as ll


def trial(count: int, seed: int) -> tuple[int, int]:
    """Explain `count` pictures; how many were tried, and how many held alone and in a run."""
    draw, kinds = random.Random(seed), [*_KINDS]
    net = ll.load("resnet18", weights=None, num_classes=6, img_size=32)
    with tempfile.TemporaryDirectory() as home:
        paths = []
        for n in range(count):
            kind = kinds[n % len(kinds)]
            paths.append(Path(home) / f"{n:03d} {kind.__name__.strip('_')}.{draw.choice(_ENDINGS)}")
            kind(paths[-1], draw)
        said = {path: fault(lambda p=path: _alone(net, p)) for path in paths}
        in_run = _together(net, paths, Path(home) / "run")
    for path in paths:
        if text := said[path] or in_run[path]:
            print(f"pictures, {path.name}: {text}")
    return count, sum(not (said[path] or in_run[path]) for path in paths)


def _alone(net: object, path: Path) -> str:
    maps = ll.explain(net, [path], "gradcam", sites="layer1").maps
    finite = len(maps) and all(bool(m.values.isfinite().all()) for m in maps)
    return "" if finite else "no map, or one that is not finite"


def _together(net: object, paths: list[Path], folder: Path) -> dict[Path, str]:
    """What is wrong with the rows of a run over all of them."""
    found: dict[Path, str] = {}

    def run() -> str:
        made = ll.run(folder, net, paths, "gradcam", sites="layer1", workers=0, shard=16)
        rows = list(made.rows())
        for path, row in zip(paths, rows, strict=True):
            found[path] = _wrong(row)
        return ""

    whole = fault(run)
    return {path: found.get(path, whole or "no row") for path in paths}


def _wrong(row: dict[str, object]) -> str:
    error = row["error"]
    if error is not None:
        return "" if one_sentence(str(error)) and "Error: " in str(error) else f"said {error!r}"
    return "" if np.isfinite(np.asarray(row["values"], float)).all() else "a map is not finite"


_MODES = {"1": "PNG", "L": "PNG", "P": "PNG", "RGBA": "PNG", "LA": "PNG", "I": "TIFF",
          "F": "TIFF", "CMYK": "TIFF", "YCbCr": "TIFF", "LAB": "TIFF"}  # fmt: skip
_ENDINGS = ("png", "jpg", "gif", "tif", "webp", "bmp")


def _encoded(image: Image.Image, form: str, **options: object) -> bytes:
    sink = BytesIO()
    image.save(sink, form, **options)
    return sink.getvalue()


def _photo(draw: random.Random, mode: str = "RGB") -> Image.Image:
    size = draw.randrange(1, 90), draw.randrange(1, 90)
    pixels = np.random.default_rng(draw.randrange(2**32)).integers(0, 255, (*size, 3), np.uint8)
    image = Image.fromarray(pixels)
    if mode == "LAB":
        return Image.frombytes("LAB", image.size, image.tobytes())
    return image.convert("L").convert(mode) if mode in ("I", "F", "LA") else image.convert(mode)


def _truncated(path: Path, draw: random.Random) -> None:
    data = _encoded(_photo(draw), draw.choice(("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP")))
    path.write_bytes(data[: draw.randrange(len(data))])


def _flipped(path: Path, draw: random.Random) -> None:
    data = bytearray(_encoded(_photo(draw), draw.choice(("PNG", "JPEG", "GIF", "TIFF", "WEBP"))))
    for _ in range(draw.randrange(1, 30)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    path.write_bytes(data)


def _mode(path: Path, draw: random.Random) -> None:
    mode = draw.choice([*_MODES])
    path.write_bytes(_encoded(_photo(draw, mode), _MODES[mode]))


def _deep(path: Path, draw: random.Random) -> None:
    wide = np.random.default_rng(draw.randrange(2**32)).integers(0, 65536, (20, 30))
    path.write_bytes(_encoded(Image.fromarray(wide.astype(np.uint16)), "PNG"))


def _infinite(path: Path, draw: random.Random) -> None:
    values = np.full((20, 30), draw.choice((np.nan, np.inf, -np.inf, 1e30)), np.float32)
    path.write_bytes(_encoded(Image.fromarray(values), "TIFF"))


def _animated(path: Path, draw: random.Random) -> None:
    frames = [_photo(draw).resize((24, 24)) for _ in range(3)]
    data = _encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    path.write_bytes(data[: draw.choice((len(data), len(data) // 2))])


def _turned(path: Path, draw: random.Random) -> None:
    exif = Image.Exif()
    exif[0x0112] = draw.choice((3, 6, 8, 99))
    path.write_bytes(_encoded(_photo(draw), "JPEG", exif=exif))


def _bomb(path: Path, draw: random.Random) -> None:
    side = draw.choice((9000, 12_000))
    path.write_bytes(_encoded(Image.new("1", (side, side)), "PNG"))


def _thin(path: Path, draw: random.Random) -> None:
    size = draw.choice(((1, 1), (1, 20_000), (20_000, 1), (2, 3000)))
    path.write_bytes(_encoded(Image.new("RGB", size, "red"), "PNG"))


def _text(path: Path, draw: random.Random) -> None:
    path.write_bytes(draw.choice((b"", b"\0", b"no picture", b"<svg/>", b"\xff\xd8", b"GIF89a")))


def _noise(path: Path, draw: random.Random) -> None:
    path.write_bytes(draw.randbytes(draw.randrange(1, 5000)))


def _pipe(path: Path, draw: random.Random) -> None:
    os.mkfifo(path)


def _device(path: Path, draw: random.Random) -> None:
    path.symlink_to(draw.choice(("/dev/zero", "/dev/null", "gone", path.name)))


def _folder(path: Path, draw: random.Random) -> None:
    path.mkdir()


_KINDS: tuple[Callable[[Path, random.Random], None], ...] = (
    _truncated, _flipped, _mode, _deep, _infinite, _animated, _turned, _thin, _text, _noise,
    _pipe, _device, _folder, _truncated, _flipped, _noise, _bomb,
)  # fmt: skip

"""Pictures of every odd kind: read as RGB, or refused in one sentence."""

from __future__ import annotations

import os
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from limelight.models import read
from limelight.models.inputs.images import images
from limelight.probe.errors import ImageError

ROWS, COLUMNS = 6, 9


def gradient() -> np.ndarray:
    y, x = np.mgrid[:ROWS, :COLUMNS]
    return np.stack([x * 20, y * 30, x * 0 + 77], -1).astype(np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def pixels(source: object) -> np.ndarray:
    found = read(source)  # type: ignore[arg-type]
    assert found.mode == "RGB"
    return np.asarray(found)


def test_every_source_gives_the_same_picture(tmp_path):
    array = gradient()
    image = Image.fromarray(array)
    (tmp_path / "a.png").write_bytes(encoded(image))
    tensor = torch.from_numpy(array)
    for source in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        encoded(image),
        image,
        array,
        array.transpose(2, 0, 1),
        array / 255.0,
        tensor,
        tensor.permute(2, 0, 1).float() / 255,
        (tensor.permute(2, 0, 1).double() / 255).requires_grad_(),
        array.astype(np.int64),
        array.astype(np.uint16) * 257,
    ):
        assert np.array_equal(pixels(source), array)


def test_the_given_image_is_left_alone():
    image = Image.fromarray(gradient())
    found = read(image)
    found.putpixel((0, 0), (1, 2, 3))
    assert image.getpixel((0, 0)) == (0, 0, 77)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "LA", "RGBA", "RGBX"])
def test_modes_become_rgb(mode):
    image = Image.new("RGB", (4, 3), "white").convert(mode)
    assert (pixels(image) >= 250).all()
    if mode in ("1", "L", "P", "LA", "RGBA"):
        assert (pixels(encoded(image)) >= 250).all()


def test_cmyk_jpeg_keeps_its_colour():
    image = Image.new("RGB", (8, 8), (250, 20, 20)).convert("CMYK")
    red = pixels(encoded(image, "JPEG"))[4, 4]
    assert red[0] > 230
    assert red[1] < 60


def test_transparent_parts_lie_on_white():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 128))
    for source in (image, encoded(image), np.asarray(image)):
        assert pixels(source).tolist() == [[[255, 255, 255], [255, 127, 127]]]
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.putpixel((1, 0), 1)
    found = pixels(encoded(palette, transparency=0))
    assert found.tolist() == [[[255, 255, 255], [10, 20, 30]]]
    keyed = Image.fromarray(gradient())
    assert pixels(encoded(keyed, transparency=(0, 0, 77)))[0, 0].tolist() == [255, 255, 255]


def test_sixteen_bit_grey_is_scaled():
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    want = [[[v] * 3 for v in (0, 1, 128, 255)]]
    image = Image.fromarray(values)
    assert image.mode == "I;16"
    for source in (image, encoded(image), encoded(image, "TIFF"), values):
        assert pixels(source).tolist() == want
    assert pixels(Image.fromarray(values.astype(np.int32))).tolist() == want


def test_float_images_need_a_known_scale():
    unit = Image.fromarray(np.array([[0.0, 1.0]], np.float32))
    assert pixels(encoded(unit, "TIFF"))[0, :, 0].tolist() == [0, 255]
    wide = Image.fromarray(np.array([[-3.0, 900.0]], np.float32))
    with pytest.raises(ImageError, match=r"holds floats from -3 to 900: scale them"):
        read(wide)
    with pytest.raises(ImageError, match="holds 32-bit values"):
        read(Image.fromarray(np.array([[0, 1 << 20]], np.int32)))


def test_exif_rotation_is_applied(tmp_path):
    image = Image.fromarray(gradient())
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    assert read(tmp_path / "turned.png").size == (ROWS, COLUMNS)
    assert np.array_equal(pixels(tmp_path / "turned.png"), np.rot90(gradient(), -1))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_ignored():
    data = encoded(Image.fromarray(gradient()), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05bad")
    assert read(data).size == (COLUMNS, ROWS)


def test_an_animation_gives_its_first_frame_with_a_warning():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "lime")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match="has 3 frames: only one is used"):
        found = read(data)
    assert found.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_truncated_files_are_refused(kind, tmp_path):
    noise = np.random.RandomState(0).randint(0, 255, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    (tmp_path / "cut").write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"cut' is (damaged|in no format)") as caught:
        read(tmp_path / "cut")
    assert "\n" not in str(caught.value)


def test_files_that_are_no_pictures(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no picture at all")
    with pytest.raises(ImageError, match=r"empty.jpg' is empty"):
        read(tmp_path / "empty.jpg")
    with pytest.raises(ImageError, match=r"text.jpg' is in no format that Pillow reads"):
        read(tmp_path / "text.jpg")
    with pytest.raises(ImageError, match="is a folder: list its pictures with images"):
        read(tmp_path)
    with pytest.raises(ImageError, match=r"does not exist; did you mean 'text.jpg'"):
        read(tmp_path / "tex.jpg")
    with pytest.raises(ImageError, match=r"does not exist; its folder .* does not exist either"):
        read(tmp_path / "none" / "a.jpg")
    with pytest.raises(ImageError, match="is longer than the name of a file may be"):
        read("a" * 5000)
    with pytest.raises(ImageError, match="picture of 0 bytes is empty"):
        read(b"")
    with pytest.raises(ImageError, match="a int is no picture"):
        read(3)  # type: ignore[arg-type]


def test_files_without_permission(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(gradient())))
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ImageError, match=r"a.png' cannot be opened: Permission denied"):
        read(tmp_path / "a.png")


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("size", [(20, 10), (30, 30)])
def test_large_pictures_are_refused_without_warnings_as_errors(size, monkeypatch):
    data = encoded(Image.new("L", size))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
    with pytest.raises(ImageError, match="more than 150 pixels"):
        read(data)


@pytest.mark.parametrize("size", [(20, 10), (30, 30)])
def test_decompression_bombs_are_refused(size, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
    with pytest.raises(ImageError, match="more than 150 pixels: make it smaller, or raise PIL"):
        read(encoded(Image.new("L", size)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read(encoded(Image.new("L", size))).size == size


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((5, 5, 2)), r"shape \(5, 5, 2\) is no picture"),
        (np.zeros((2, 3, 5, 5)), "several pictures as a list"),
        (np.zeros(5), "is no picture"),
        (np.zeros((0, 5)), "has no pixels"),
        (np.full((2, 2), -1.5), "floats from -1.5 to -1.5 are no picture"),
        (np.full((2, 2), np.nan), "floats from nan"),
        (np.full((2, 2), 300), "integers from 300 to 300"),
        (np.full((2, 2), "a"), "is no picture: give uint8"),
        (torch.randn(3, 8, 8) * 3, "pass what is already normalised to the model itself"),
    ],
)
def test_arrays_that_are_no_pictures(array, told):
    with pytest.raises(ImageError, match=told):
        read(array)


def test_masks_and_grey_arrays():
    assert pixels(np.array([[True, False]])).tolist() == [[[255] * 3, [0] * 3]]
    assert pixels(np.array([[7]], np.uint8)).tolist() == [[[7, 7, 7]]]
    assert pixels(torch.full((1, 1, 1), 0.5, dtype=torch.bfloat16)).tolist() == [[[128] * 3]]


def test_one_pixel_is_a_picture():
    assert read(np.zeros((1, 1), np.uint8)).size == (1, 1)


def test_folders_are_listed_in_order(tmp_path):
    for name in ("b.JPG", "a.png", "sub/c.webp", ".hidden.png", ".cache/d.png", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert images(tmp_path) == [tmp_path / name for name in ("a.png", "b.JPG", "sub/c.webp")]
    assert images(str(tmp_path)) == images(tmp_path)


def test_folders_without_pictures(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "a.png").touch()
    with pytest.raises(ImageError, match=r"holds no pictures: files ending in .bmp"):
        images(tmp_path / "photos")
    with pytest.raises(ImageError, match="does not exist; did you mean 'photos'"):
        images(tmp_path / "photo")
    with pytest.raises(ImageError, match="is a file"):
        images(tmp_path / "a.png")


def test_reading_is_quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(read(encoded(Image.fromarray(gradient()), "JPEG")), Image.Image)


def test_a_pipe_is_refused_before_it_is_read(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ImageError, match="is a pipe or a device"):
        read(tmp_path / "a.png")


def test_a_small_file_of_very_many_pixels_is_refused(tmp_path):
    path = tmp_path / "large.png"
    Image.new("1", (9000, 9000)).save(path)
    assert path.stat().st_size < 100_000
    with pytest.raises(ImageError, match=r"9000 x 9000 pixels, more than the 64 million"):
        read(path)

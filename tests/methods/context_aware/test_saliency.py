"""Context-aware saliency against its golden case, a float64 brute force and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from methods_golden import fill
from shared import TESTS
from torch import Tensor

from limelight.methods.context_aware import cielab
from limelight.methods.context_aware.foci import contours, distance
from limelight.methods.context_aware.nearest_patches import smallest
from limelight.methods.context_aware.rendering import rendered
from limelight.methods.context_aware.saliency import Saliency, context_aware
from limelight.probe.errors import ImageError, OptionError

SCALES = (1.0, 0.8, 0.5, 0.3)


def flower(step: int) -> Tensor:
    """The photograph of the golden case, every `step`-th pixel."""
    samples = pytest.importorskip("sklearn.datasets").load_sample_images()
    photo = dict(zip((str(f)[-10:] for f in samples.filenames), samples.images, strict=True))
    return torch.from_numpy(photo["flower.jpg"][::step, ::step] / 255).permute(2, 0, 1)


def relevance_like() -> Tensor:
    """The grey picture of the golden case in three channels."""
    y, x = np.mgrid[:48, :48]
    grey = np.abs(fill.image((48, 48), 5)) * np.exp(-((y - 20) ** 2 + (x - 30) ** 2) / 150)
    return torch.from_numpy(grey / grey.max()).expand(3, -1, -1)


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Seeded uniform noise."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def ranks(values: Tensor) -> Tensor:
    """The rank of each value."""
    return values.flatten().argsort().argsort().double()


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation of two maps without ties."""
    return float(torch.corrcoef(torch.stack([ranks(a), ranks(b)]))[0, 1])


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(TESTS / "parity" / "method_cas_lab.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def photo() -> Saliency:
    return context_aware(flower(8))


def resized(image: Tensor, ratio: float) -> Tensor:
    size = [round(ratio * n) for n in image.shape[1:]]
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]


def spots(image: Tensor, shape: torch.Size, size: int, stride: int) -> list[tuple[Tensor, Tensor]]:
    """Each whole patch of an image and its centre in units of the longer side of `shape`."""
    h, w = image.shape[1:]
    longer = max(shape)
    return [
        (
            image[:, y : y + size, x : x + size],
            torch.tensor(
                [
                    (y + size // 2 + 0.5) / h * shape[0] / longer,
                    (x + size // 2 + 0.5) / w * shape[1] / longer,
                ],
                dtype=torch.float64,
            ),
        )
        for y in range(0, h - size + 1, stride)
        for x in range(0, w - size + 1, stride)
    ]


def brute(planes: Tensor, r: float, *, c: float, k: int, size: int, stride: int) -> Tensor:
    """S_r pixel by pixel in float64."""
    small, shape = resized(planes, r), planes.shape[1:]
    h, w = small.shape[1:]
    half = size // 2
    keys = []
    for q in (r, r / 2, r / 4):
        if q >= 0.2 and min(round(q * n) for n in shape) >= size:
            keys += spots(resized(planes, q), shape, size, stride)
    values = torch.stack([v for v, _ in keys])
    places = torch.stack([p for _, p in keys])
    padded = F.pad(small[None], (half,) * 4, mode="replicate")[0]
    found = torch.empty(h, w, dtype=torch.float64)
    for y in range(h):
        for x in range(w):
            far = (values - padded[:, y : y + size, x : x + size]).square().sum((1, 2, 3)).sqrt()
            at = torch.tensor([(y + 0.5) / h * shape[0], (x + 0.5) / w * shape[1]]) / max(shape)
            d = far / (1 + c * (places - at).square().sum(1).sqrt())
            found[y, x] = 1 - torch.exp(-d.sort().values[:k].mean())
    return F.interpolate(found[None, None], shape, mode="bilinear")[0, 0]


@pytest.mark.golden
def test_photo_equals_the_golden_case(golden, photo):
    for i in range(4):
        assert np.abs(photo.scales[i].numpy() - golden[f"scale{i}"]).max() < 1e-5
    assert np.abs(photo.mean.numpy() - golden["mean"]).max() < 1e-5
    assert np.array_equal(photo.foci.numpy(), golden["foci"] > 0)
    assert np.abs(photo.values.numpy() - golden["final"]).max() < 1e-5


@pytest.mark.golden
def test_grey_picture_in_three_channels_equals_the_golden_case(golden):
    found = context_aware(relevance_like())
    assert np.abs(found.mean.numpy() - golden["relevance_like.mean"]).max() < 1e-5
    assert np.abs(found.values.numpy() - golden["relevance_like.final"]).max() < 1e-5


def test_float32_image_changes_nothing_that_matters(photo):
    found = context_aware(flower(8).float())
    assert (found.mean - photo.mean).abs().max() < 1e-5
    assert found.values.dtype == found.scales.dtype == torch.float32
    assert torch.equal(found.foci, photo.foci)


@pytest.mark.parametrize(
    ("shape", "c", "k", "size", "stride", "scales"),
    [
        ((3, 17, 24), 3.0, 64, 7, 3, SCALES),
        ((3, 20, 16), 1.0, 10, 5, 2, (1.0, 0.5)),
        ((1, 18, 18), 0.0, 1, 3, 1, (0.9,)),
    ],
)
def test_exact_equals_a_brute_force_in_float64(shape, c, k, size, stride, scales):
    image = noise(*shape).double()
    image[:, :9, :9] = 0.9 + 1e-4 * image[:, :9, :9]
    colour = "rgb"
    found = context_aware(
        image, c=c, k=k, patch=size, stride=stride, scales=scales, colour=colour, focus=False
    )
    low, high = image.amin((1, 2), keepdim=True), image.amax((1, 2), keepdim=True)
    kept = [r for r in scales if min(round(r * n) for n in shape[1:]) >= size]
    for r, got in zip(kept, found.scales, strict=True):
        want = brute((image - low) / (high - low), r, c=c, k=k, size=size, stride=stride)
        assert (got - want).abs().max() < 1e-5


@pytest.mark.parametrize("neighbours", ["exact", "fast"])
@pytest.mark.parametrize("colour", ["lab", "rgb", "gray"])
@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_uniform_image_is_nowhere_salient(neighbours, colour, value):
    image = torch.full((3, 30, 40), value)
    image[1] *= 0.5
    found = context_aware(image, neighbours=neighbours, colour=colour)
    for part in (found.values, found.mean, found.scales, found.distance):
        assert torch.equal(part, torch.zeros_like(part))
    assert not found.foci.any()


@pytest.mark.parametrize("neighbours", ["exact", "fast"])
def test_map_peaks_inside_a_bright_blob_on_noise(neighbours):
    image = 0.3 * noise(3, 90, 96)
    image[:, 50:60, 30:40] = 1.0
    found = context_aware(image, neighbours=neighbours)
    y, x = divmod(int(found.values.argmax()), 96)
    assert 46 <= y < 64
    assert 26 <= x < 44


def test_more_neighbours_raise_and_a_heavier_position_lowers_the_map():
    image = noise(3, 24, 24, seed=1)
    by_k = [context_aware(image, k=k, focus=False).values for k in (1, 8, 64)]
    by_c = [context_aware(image, c=c, focus=False).values for c in (0.0, 1.0, 3.0)]
    assert (by_k[0] <= by_k[1]).all()
    assert (by_k[1] <= by_k[2]).all()
    assert (by_c[0] >= by_c[1]).all()
    assert (by_c[1] >= by_c[2]).all()


def test_fast_ranks_the_pixels_of_a_photo_as_exact_does():
    image = flower(4)
    exact, fast = (context_aware(image, neighbours=n) for n in ("exact", "fast"))
    assert not torch.equal(exact.mean, fast.mean)
    assert spearman(exact.mean, fast.mean) > 0.98
    assert spearman(exact.values, fast.values) > 0.98


def test_one_channel_counts_lightness_alone():
    grey = noise(20, 22)
    flat = context_aware(grey).mean
    assert torch.equal(context_aware(grey[None]).mean, flat)
    three = context_aware(grey.expand(3, -1, -1), colour="gray").mean
    assert torch.allclose(three, flat, atol=1e-6)


def test_large_image_is_worked_at_the_longest_side_asked_for():
    found = context_aware(noise(3, 30, 60), longest=20)
    assert found.values.shape == found.foci.shape == (10, 20)
    assert len(found.scales) == 2


def test_focus_weighs_the_mean_by_the_distance_to_the_foci(photo):
    plain = context_aware(flower(8), focus=False)
    assert torch.equal(plain.values, photo.mean)
    assert torch.equal(photo.values, photo.mean * (1 - photo.distance))
    assert torch.equal(photo.foci, photo.mean > 0.8 * photo.mean.max())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"c": -1.0}, "c=-1.0; give a finite number from 0 up"),
        ({"k": 0}, "k=0; give a whole number from 1 up"),
        ({"scales": ()}, "scales=(); give one or more numbers from 0.2 to 1"),
        ({"scales": (0.1,)}, "scales=(0.1,); give one or more numbers from 0.2 to 1"),
        ({"patch": 6}, "patch=6; give an odd number of pixels"),
        ({"stride": 0}, "stride=0; give a whole number from 1 up"),
        ({"threshold": 1.0}, "threshold=1.0; give a share of the maximum, from 0 to below 1"),
        ({"longest": 5}, "longest=5; give at least the side of a patch, 7 pixels"),
        ({"colour": "grey"}, "colour='grey'; give one of lab, rgb, gray; did you mean 'gray'?"),
        ({"neighbours": "all"}, "neighbours='all'; give one of exact, fast"),
    ],
)
def test_impossible_options_are_refused_in_a_sentence(options, sentence):
    with pytest.raises(OptionError) as caught:
        context_aware(noise(3, 20, 20), **options)
    assert str(caught.value) == f"context_aware was asked for {sentence}"


@pytest.mark.parametrize(
    ("image", "options", "sentence"),
    [
        (noise(3, 6, 20), {}, "an image of 6 x 20 pixels; give sides of at least one patch"),
        (noise(2, 20, 20), {}, "shape (2, 20, 20); give `y x`, `1 y x` or `3 y x`"),
        (noise(3, 20, 20) * 255, {}, "give values in [0, 1]"),
        (noise(20, 20) / 0 - torch.inf, {}, "give values in [0, 1]"),
        (noise(8, 8), {"scales": (0.5,)}, "give one at which a patch of 7 pixels fits"),
    ],
)
def test_impossible_images_are_refused_in_a_sentence(image, options, sentence):
    with pytest.raises(ImageError) as caught:
        context_aware(image, **options)
    assert sentence in str(caught.value)


def test_lab_of_known_colours():
    rgb = torch.tensor([[1.0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 1]]).double().T[:, :, None]
    want = torch.tensor([[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86]])
    assert (cielab.lab(rgb)[..., 0].T - want).abs().max() < 0.02


def test_smallest_equals_sorting_with_and_without_groups():
    for n in (5, 64, 1000, 1003):
        values = noise(9, n, seed=n)
        found = smallest(values, 5).sort().values
        assert torch.equal(found, values.sort().values[:, :5])


def test_distance_is_euclidean_and_exact():
    mask = noise(31, 17, seed=3) > 0.98
    there = mask.nonzero().double()
    pixels = torch.ones(31, 17).nonzero().double()
    far = torch.cdist(pixels, there).amin(1).view(31, 17)
    assert (distance(mask) - far / far.max()).abs().max() < 1e-6
    assert distance(torch.ones(4, 5, dtype=torch.bool)).max() == 0


def test_contours_outline_each_region_and_hole():
    mask = torch.zeros(20, 30, dtype=torch.bool)
    mask[2:9, 3:12] = True
    mask[5, 7] = False
    mask[12:15, 20:29] = True
    found = contours(mask)
    boxes = {tuple(line.min(0)) + tuple(line.max(0)) for line in found}
    assert len(found) == 3
    assert {(3, 2, 11, 8), (20, 12, 28, 14)} < boxes
    assert contours(torch.zeros(4, 4, dtype=torch.bool)) == []


def test_rendering_is_one_min_max_over_pixels_and_channels():
    relevance = torch.tensor([[[-2.0, 1.0]], [[0.0, 0.5]], [[1.0, -1.0]]])
    colour = rendered(relevance)
    assert torch.equal(colour, relevance.abs() / 2)
    assert torch.equal(rendered(relevance, "relevance-gray"), torch.tensor([[1.0, 0.0]]))
    assert torch.equal(rendered(relevance, "positive"), torch.tensor([[0.0, 1.0]]))
    steps = (rendered(relevance, quantise=True) * 255).to(torch.uint8)
    assert steps.tolist() == [[[255, 127]], [[0, 63]], [[127, 127]]]
    assert torch.equal(rendered(torch.full((3, 2, 2), 7.0)), torch.zeros(3, 2, 2))


def test_rendering_refuses_unknown_words_and_shapes():
    with pytest.raises(OptionError, match="did you mean 'positive'"):
        rendered(noise(3, 4, 4), "positiv")
    with pytest.raises(OptionError, match="give `c y x`"):
        rendered(noise(4, 4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_same_map(photo):
    found = context_aware(flower(8), device="cuda")
    assert found.values.is_cuda
    assert (found.values.cpu() - photo.values).abs().max() < 1e-5

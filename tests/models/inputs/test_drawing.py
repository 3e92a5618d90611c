"""Inputs as pictures for the eye."""

from __future__ import annotations

import numpy as np
import torch

from limelight.models.inputs import drawn


def test_mean_and_std_are_undone():
    pixels = torch.randint(0, 256, (3, 5, 7), generator=torch.Generator().manual_seed(0))
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    x = (pixels / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    image = drawn(x, mean, std)
    assert image.size == (7, 5)
    assert np.array_equal(np.asarray(image), pixels.permute(1, 2, 0).numpy())
    grey = drawn((pixels[:1] / 255 - 0.5) / 0.25, (0.5,), (0.25,))
    assert np.array_equal(np.asarray(grey)[..., 2], pixels[0].numpy())


def test_else_the_range_is_black_to_white():
    x = torch.tensor([[[-3.0, 1.0], [-1.0, float("nan")]]])
    assert np.asarray(drawn(x))[..., 0].tolist() == [[0, 255], [128, 191]]
    assert not np.asarray(drawn(torch.full((3, 2, 2), 7.0))).any()
    four = np.asarray(drawn(torch.stack([torch.eye(2)] * 4)))
    assert four[..., 1].tolist() == [[255, 0], [0, 255]]

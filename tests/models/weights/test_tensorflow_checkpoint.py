"""TensorFlow checkpoints: one that TensorFlow wrote, and damaged ones."""

from __future__ import annotations

import shutil
import tarfile

import pytest
import torch
from fill import value
from shared import TESTS

from limelight.models.weights.state_files import read_state
from limelight.models.weights.tensorflow_checkpoint import read_checkpoint
from limelight.probe.errors import WeightsError

WRITTEN = TESTS / "parity" / "moat.tensorflow.tar.gz"


@pytest.fixture
def unpacked(tmp_path):
    with tarfile.open(WRITTEN) as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path / "moat_small"


def test_a_checkpoint_gives_the_values_that_tensorflow_saved(unpacked):
    state = read_checkpoint(WRITTEN)
    kernel = torch.from_numpy(value("stem.conv_1.weight", (6, 4, 3, 3))).permute(2, 3, 1, 0)
    assert torch.equal(state["moat/stem/conv_1/kernel"], kernel)
    table = value("block_01_01.attention.relative_position_embedding", (2, 3, 3))
    name = "moat/block_01_01/attention/relative_position_embedding"
    assert torch.equal(state[name], torch.from_numpy(table))
    assert torch.equal(state[f"{name}/ExponentialMovingAverage"], torch.full((2, 3, 3), 0.5))
    assert state["global_step"].dtype == torch.int64
    assert state["global_step"].item() == 7
    assert list(state) == sorted(state)
    from_disk = read_state(unpacked / "model.ckpt-7.index")
    assert list(from_disk) == list(state)
    assert all(torch.equal(x, state[name]) for name, x in from_disk.items())


def test_values_can_be_written_to(unpacked):
    state = read_checkpoint(unpacked / "model.ckpt-7.index")
    state["moat/stem/conv_0/bias"].zero_()


def test_damaged_checkpoints_are_explained(unpacked, tmp_path):
    index, data = (unpacked / f"model.ckpt-7.{end}" for end in ("index", "data-00000-of-00001"))
    whole = data.read_bytes()
    data.write_bytes(whole[:-4])
    with pytest.raises(WeightsError, match=r"cannot be read \(.* bytes of 'moat/.*whose shape is"):
        read_state(index)
    data.unlink()
    with pytest.raises(WeightsError, match="with its index and all its data files"):
        read_state(index)
    data.write_bytes(whole)
    index.write_bytes(index.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="no table of TensorFlow's format V2"):
        read_state(index)
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(WRITTEN.read_bytes()[:5000])
    with pytest.raises(WeightsError, match=r"cut.tar.gz' cannot be read"):
        read_state(cut)
    (tmp_path / "text.gz").write_text("no archive")
    with pytest.raises(WeightsError, match=r"text.gz' cannot be read"):
        read_state(tmp_path / "text.gz")


def test_an_archive_of_two_checkpoints_or_none_is_refused(unpacked, tmp_path):
    shutil.copy(unpacked / "model.ckpt-7.index", unpacked / "model.ckpt-8.index")
    with tarfile.open(tmp_path / "two.tar.gz", "w:gz") as tar:
        tar.add(unpacked, "both")
    with pytest.raises(WeightsError, match=r"^'.*holds 2 files that end in '\.index'"):
        read_state(tmp_path / "two.tar.gz")
    with tarfile.open(tmp_path / "none.tar.gz", "w:gz") as tar:
        tar.add(WRITTEN, "other")
    with pytest.raises(WeightsError, match=r"^'.*holds 0 files that end in '\.index'"):
        read_state(tmp_path / "none.tar.gz")

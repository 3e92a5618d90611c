"""Volumes of radiology, scaled as their files say and in the order of their places."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from limelight.probe.errors import LimelightError
from limelight.reports.datasets.volumes import PackageError, read_volume


@pytest.mark.parametrize(("name", "package"), [("a.nii.gz", "nibabel"), ("a.dcm", "pydicom")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PackageError, match=f"read by {package}, which is not installed: pip inst"):
        read_volume(tmp_path / name)


def test_nifti_is_scaled_and_keeps_its_order(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    stored = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = nibabel.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(2.0, 1.0)
    nibabel.save(image, tmp_path / "a.nii.gz")
    values, axes = read_volume(tmp_path / "a.nii.gz")
    assert axes == "x y z"
    np.testing.assert_array_equal(values, 2.0 * stored + 1)
    nibabel.save(
        nibabel.Nifti1Image(np.zeros((2, 3, 4, 5), np.float32), np.eye(4)), tmp_path / "t.nii"
    )
    (tmp_path / "bad.nii").write_bytes(b"x" * 500)
    for name, told in (
        ("t.nii", r"shape \(2, 3, 4, 5\), not x y z"),
        ("bad.nii", "cannot be read"),
    ):
        with pytest.raises(LimelightError, match=told):
            read_volume(tmp_path / name)


def write(path, pixels, **tags):
    """A grey DICOM file of one slice, or of several frames."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    held = np.asarray(pixels, np.uint16)
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = CTImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = generate_uid()
    file.Rows, file.Columns = held.shape[-2:]
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 16, 15, 0
    file.RescaleSlope, file.RescaleIntercept = 2, -10
    if held.ndim == 3:
        file.NumberOfFrames = len(held)
    for name, value in tags.items():
        setattr(file, name, value)
    file.PixelData = held.tobytes()
    file.save_as(path, enforce_file_format=True)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_dicom_slices_lie_by_their_place_in_the_patient(tmp_path):
    pytest.importorskip("pydicom")
    for name, z in (("a", 3), ("b", 1), ("c", 2)):
        place = {"ImagePositionPatient": [5, 5, z], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        write(tmp_path / f"{name}.dcm", np.full((2, 5), z), InstanceNumber=9 - z, **place)
    values, axes = read_volume(tmp_path)
    assert axes == "z y x"
    np.testing.assert_array_equal(values[:, 0, 0], [-8, -6, -4])
    write(tmp_path / "d.dcm", np.full((2, 5), 4), **place)
    with pytest.raises(LimelightError, match="two slices of one place"):
        read_volume(tmp_path)
    with pytest.raises(LimelightError, match="a single slice: give"):
        read_volume(tmp_path / "a.dcm")
    write(tmp_path / "frames.dcm", np.arange(30).reshape(3, 2, 5))
    values, axes = read_volume(tmp_path / "frames.dcm")
    np.testing.assert_array_equal(values, 2 * np.arange(30).reshape(3, 2, 5) - 10)

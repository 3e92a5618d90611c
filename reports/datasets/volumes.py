"""Volumes in the files of radiology: NIfTI by nibabel, DICOM by pydicom, where they are there."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...probe.errors import LimelightError

NIFTI = (".nii", ".nii.gz")
DICOM = (".dcm", ".dicom")
VOLUMES = (*NIFTI, *DICOM)

Voxels = tuple[NDArray[np.float32], str]


class PackageError(LimelightError, ImportError):
    """A package that a data set needs is not installed."""


def read_volume(path: Path) -> Voxels:
    """The values of a volume, scaled as its file says, and what its dimensions mean.

    NIfTI stores `x y z`; DICOM frames or slices, `z y x`, sorted by their place in the patient.
    Voxels stay where they are: nothing is turned or resampled. Raises PackageError where the
    package that reads them is missing, LimelightError for what is no single volume.
    """
    if path.name.lower().endswith(NIFTI):
        return _nifti(path)
    return _slices(path) if path.is_dir() else _frames(path)


def _package(name: str, path: Path) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise PackageError(
            f"volume {str(path)!r} is read by {name}, which is not installed: pip install {name}"
        ) from None


def _nifti(path: Path) -> Voxels:
    nibabel = _package("nibabel", path)
    try:
        values = np.asarray(nibabel.load(path).get_fdata(dtype=np.float32))
    except (*_DAMAGE, nibabel.filebasedimages.ImageFileError) as error:
        raise _unreadable(path, error) from None
    if values.ndim > 3 and values.shape[3:] == (1,) * (values.ndim - 3):
        values = values.reshape(values.shape[:3])
    if values.ndim != 3:
        raise LimelightError(
            f"volume {str(path)!r} has shape {values.shape}, not x y z: take one volume out of it"
        )
    return np.ascontiguousarray(values), "x y z"


def _frames(path: Path) -> Voxels:
    file = _dicom(path)
    values = _scaled(file, path)
    if values.ndim == 3 and int(getattr(file, "SamplesPerPixel", 1)) == 1:
        return values, "z y x"
    raise LimelightError(
        f"volume {str(path)!r} holds {'colours' if values.ndim > 2 else 'a single slice'}: give a "
        "grey file of many frames, or the folder of all slices"
    )


def _slices(folder: Path) -> Voxels:
    paths = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    files = [(_place(_dicom(p), p), p) for p in paths]
    if not files:
        raise LimelightError(f"volume {str(folder)!r} holds no file of a slice")
    slices = [(place, _scaled(_dicom(p), p)) for place, p in files]
    shapes = {values.shape for _, values in slices}
    if len(shapes) > 1 or any(len(shape) != 2 for shape in shapes):
        raise LimelightError(
            f"volume {str(folder)!r} holds slices of {' and '.join(map(str, sorted(shapes)))}: "
            "keep the grey slices of one series in it"
        )
    if len({place for place, _ in slices}) < len(slices):
        raise LimelightError(
            f"volume {str(folder)!r} holds two slices of one place: keep those of one series in it"
        )
    return np.stack([values for _, values in sorted(slices, key=lambda s: s[0])]), "z y x"


def _place(file: Any, path: Path) -> float:
    """Where a slice lies along the normal of its plane; else its number in the series."""
    position = getattr(file, "ImagePositionPatient", None)
    plane = getattr(file, "ImageOrientationPatient", None)
    if position is not None and plane is not None:
        across, down = np.asarray(plane, float).reshape(2, 3)
        return float(np.asarray(position, float) @ np.cross(across, down))
    number = getattr(file, "InstanceNumber", None)
    if number is None:
        raise LimelightError(f"slice {str(path)!r} tells neither its position nor its number")
    return float(number)


def _dicom(path: Path) -> Any:
    pydicom = _package("pydicom", path)
    try:
        return pydicom.dcmread(path)
    except (*_DAMAGE, pydicom.errors.InvalidDicomError) as error:
        raise _unreadable(path, error) from None


def _scaled(file: Any, path: Path) -> NDArray[np.float32]:
    """Stored values times the slope plus the intercept: Hounsfield units of a CT."""
    try:
        pixels = np.asarray(file.pixel_array, np.float32)
    except (*_DAMAGE, AttributeError, RuntimeError, NotImplementedError) as error:
        raise _unreadable(path, error) from None
    slope, shift = (float(getattr(file, f"Rescale{w}", d)) for w, d in _RESCALE)
    return pixels * np.float32(slope) + np.float32(shift)


_DAMAGE = (OSError, ValueError, EOFError, KeyError, TypeError)
_RESCALE = (("Slope", 1.0), ("Intercept", 0.0))


def _unreadable(path: Path, error: Exception) -> LimelightError:
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return LimelightError(f"volume {str(path)!r} cannot be read: {reason}")

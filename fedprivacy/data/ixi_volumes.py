"""From NIfTI files to tensors: FLamby's resize and z-score, and a cache of the result on disk."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray
from torch.nn.functional import interpolate
from tqdm import tqdm

from fedprivacy.data.ixi_files import Subject
from fedprivacy.errors import DataError

TRANSFORM_VERSION = 1
LABEL_RESIZES = ("flamby", "nearest", "threshold")
PROGRESS_FROM = 100


@dataclass(frozen=True)
class Volumes:
    """Decoded subjects, in the order of ``names``.

    Attributes:
        names: ``(n,)`` subject names.
        images: ``(n, 1, *shape)`` float32, each volume of mean 0 and variance 1.
        masks: ``(n, *shape)`` int64 in {0, 1}, 1 inside the brain.
    """

    names: NDArray[np.str_]
    images: torch.Tensor
    masks: torch.Tensor


def load_volumes(
    subjects: Sequence[Subject],
    shape: tuple[int, int, int],
    label_resize: str,
    cache: Path,
    files_digest: str,
) -> Volumes:
    """Decode all subjects, or read what an earlier call decoded.

    Args:
        subjects: with image and mask.
        shape: spatial shape of the result, axes as on disk (FLamby does not reorient).
        label_resize: see ``resize_mask``.
        cache: folder for decoded tensors; anything in it may be deleted at any time.
        files_digest: hex digest that changes when the files change.

    Raises:
        DataError: a file that is damaged or not what it should be.
    """
    names = np.array([subject.name for subject in subjects])
    recipe = f"{TRANSFORM_VERSION} {files_digest} {shape} {label_resize} {' '.join(names)}"
    path = cache / f"{hashlib.sha256(recipe.encode()).hexdigest()[:24]}.npz"
    cached = _read_cache(path, names, shape)
    if cached is not None:
        return cached
    images = torch.empty(len(subjects), 1, *shape, dtype=torch.float32)
    masks = torch.empty(len(subjects), *shape, dtype=torch.int64)
    quiet = len(subjects) < PROGRESS_FROM
    for row, subject in enumerate(tqdm(subjects, "Decoding IXI volumes", disable=quiet)):
        image, mask = read_pair(subject)
        images[row, 0] = zscore(resize_area(image, shape))
        masks[row] = resize_mask(mask, shape, label_resize)
    _write_cache(path, names, images, masks)
    return Volumes(names, images, masks)


def read_pair(subject: Subject) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Image and mask of one subject as stored, float32.

    Raises:
        DataError: unreadable, not 3-D, of different shapes, not finite, or a mask that holds
            anything but 0 and 1.
    """
    if subject.image is None or subject.mask is None:
        raise DataError(f"{subject.name} lacks its image or its mask")
    image, mask = _read(subject.image), _read(subject.mask)
    if image.ndim != 3 or image.shape != mask.shape:
        raise DataError(
            f"{subject.name}: image {image.shape} and mask {mask.shape} must be 3-D and of one "
            f"shape ({subject.image}, {subject.mask})"
        )
    if not np.isfinite(image).all():
        raise DataError(f"{subject.image} holds values that are not finite")
    if not np.isin(mask, (0.0, 1.0)).all():
        values = np.unique(mask)
        raise DataError(f"{subject.mask} holds {values[:5]}...: a brain mask holds 0 and 1 only")
    return image, mask


def resize_area(volume: NDArray[np.float32], shape: tuple[int, int, int]) -> torch.Tensor:
    """``shape`` float32: each new voxel is the mean over the old ones it covers, even partly."""
    tensor = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))
    return interpolate(tensor[None, None], size=shape, mode="area")[0, 0]


def zscore(volume: torch.Tensor) -> torch.Tensor:
    """Mean 0, variance 1 over the whole volume (background included); a flat one becomes 0."""
    wide = volume.double()
    spread = float(wide.std(unbiased=False))
    return ((wide - wide.mean()) / (spread if spread > 0 else 1.0)).float()


def resize_mask(
    mask: NDArray[np.float32], shape: tuple[int, int, int], label_resize: str
) -> torch.Tensor:
    """``shape`` int64 mask.

    ``flamby``: brain where the area mean is exactly 1. FLamby's own path truncates the mean to an
    integer, so its published scores are on masks that have lost their rim. ``threshold``: area
    mean of at least one half. ``nearest``: the old voxel at the new one's centre.
    """
    if label_resize == "nearest":
        tensor = torch.from_numpy(np.ascontiguousarray(mask, dtype=np.float32))
        sampled = interpolate(tensor[None, None], size=shape, mode="nearest-exact")
        return sampled[0, 0].to(torch.int64)
    limit = {"flamby": 1.0, "threshold": 0.5}[label_resize]
    return (resize_area(mask, shape) >= limit).to(torch.int64)


def _read(path: Path) -> NDArray[np.float32]:
    """A NIfTI file's values."""
    try:
        return np.asarray(nib.load(path).dataobj, dtype=np.float32)
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError) as error:
        raise DataError(
            f"{path} is damaged or no NIfTI file ({error}): run `fedprivacy data verify ixi_tiny`"
        ) from error


def _read_cache(path: Path, names: NDArray[np.str_], shape: tuple[int, int, int]) -> Volumes | None:
    """The cached tensors, or None where there are none that can be trusted."""
    try:
        # Opened here: np.load leaves its own handle open when the archive is damaged.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            images, masks = arrays["images"], arrays["masks"]
            if not np.array_equal(arrays["names"], names):
                return None
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    if images.shape != (len(names), 1, *shape) or masks.shape != (len(names), *shape):
        return None
    return Volumes(names, torch.from_numpy(images), torch.from_numpy(masks).to(torch.int64))


def _write_cache(
    path: Path, names: NDArray[np.str_], images: torch.Tensor, masks: torch.Tensor
) -> None:
    """Store the tensors under a temporary name, then rename: readers see all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            np.savez(
                stream, names=names, images=images.numpy(), masks=masks.numpy().astype(np.uint8)
            )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

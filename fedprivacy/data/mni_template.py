"""Tissue maps of the MNI152 template (ICBM 2009a nonlinear symmetric) on a coarse grid.

The package carries ``assets/mni152_tissue_3mm.npz``, derived by ``derive`` from the 1 mm maps
that nilearn redistributes; ``assets/NOTICE.mni152.txt`` holds the template's copyright notice,
which must stay with every copy. Source: V. Fonov et al., NeuroImage 54(1), 2011; V. Fonov et al.,
NeuroImage 47, S102, 2009.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fedprivacy.errors import DataError

ASSET = "mni152_tissue_3mm.npz"
ASSET_SHA256 = "b14ed32243a903d02dca97c81f8a05ef86edd5fccb7aa2820e1a4a52bb7f8de6"
BLOCK_MM = 3
LEVELS = 15
SKULL_STRIP_THRESHOLD = 0.2
# First and last block kept along R, A, S: the brain with at least one empty block around it,
# except below, where the brain stem leaves the template.
CROP = ((6, 59), (6, 71), (0, 53))

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class TissueMaps:
    """Share of each voxel that is grey matter, white matter, and inside the brain mask.

    Attributes:
        grey: ``(x, y, z)`` float32 in [0, 1], axes towards right, anterior, superior.
        white: like ``grey``.
        brain: like ``grey``; the filled mask, ventricles and sulci included.
        affine: ``(4, 4)`` float64, voxel indices to MNI millimetres.
    """

    grey: FloatArray
    white: FloatArray
    brain: FloatArray
    affine: NDArray[np.float64]


def load_template() -> TissueMaps:
    """Read the maps shipped with the package.

    Raises:
        DataError: the file is missing or is not the one that was shipped.
    """
    resource = files("fedprivacy.data").joinpath("assets", ASSET)
    try:
        payload = resource.read_bytes()
    except OSError as error:
        raise DataError(f"{resource} is missing: install fedprivacy again ({error})") from error
    if hashlib.sha256(payload).hexdigest() != ASSET_SHA256:
        raise DataError(f"{resource} is not the file that was shipped: install fedprivacy again")
    with resource.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        grey, white, brain = (
            arrays[name].astype(np.float32) / LEVELS for name in ("grey", "white", "brain")
        )
        return TissueMaps(grey, white, brain, arrays["affine"].astype(np.float64))


def derive(
    t1: FloatArray, grey: FloatArray, white: FloatArray, affine: NDArray[np.float64]
) -> dict[str, NDArray[np.generic]]:
    """Arrays of the shipped file, from the 1 mm template.

    The brain mask is the skull-stripped T1 above 0.2 of its maximum (nilearn's own mask), its
    holes filled. Every map is averaged over blocks of 3 mm, rounded to 16 levels and cropped.

    Args:
        t1: skull-stripped T1 template, ``(197, 233, 189)``, maximum 1.
        grey: grey-matter probability, same grid.
        white: white-matter probability, same grid.
        affine: voxel indices to millimetres, 1 mm steps along R, A, S.
    """
    mask = ndimage.binary_fill_holes(t1 > SKULL_STRIP_THRESHOLD).astype(np.float32)
    coarse = {
        name: np.rint(_block_means(volume) * LEVELS).astype(np.uint8)
        for name, volume in (("grey", grey), ("white", white), ("brain", mask))
    }
    first = np.array([low for low, _ in CROP]) * BLOCK_MM + (BLOCK_MM - 1) / 2
    origin = affine[:3, :3] @ first + affine[:3, 3]
    new_affine = np.eye(4)
    new_affine[:3, :3] = affine[:3, :3] * BLOCK_MM
    new_affine[:3, 3] = origin
    return {**coarse, "affine": new_affine}


def _block_means(volume: FloatArray) -> FloatArray:
    """Means over cubes of ``BLOCK_MM`` voxels, cropped to ``CROP``."""
    (x0, x1), (y0, y1), (z0, z1) = ((a * BLOCK_MM, (b + 1) * BLOCK_MM) for a, b in CROP)
    part = volume[x0:x1, y0:y1, z0:z1].astype(np.float64)
    shape = [side for size in part.shape for side in (size // BLOCK_MM, BLOCK_MM)]
    return np.asarray(part.reshape(shape).mean(axis=(1, 3, 5)), dtype=np.float32)

"""From image files to tensors: reading, resizing by area, and a cache of the result on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import interpolate
from tqdm import tqdm

from fedprivacy.data.files import digest_tree, write_atomic
from fedprivacy.errors import DataError

# Round numbers near the mean and spread of the stand-in; fixed, never measured on the records.
PIXEL_CENTRE = 0.2
PIXEL_SCALE = 0.25
TRANSFORM_VERSION = 1
PROGRESS_FROM = 5000


def load_images(
    paths: Sequence[Path], image_size: int, cache: Path, files_digest: str
) -> torch.Tensor:
    """Decode all images, or read what an earlier call decoded.

    Args:
        paths: npy or png files.
        image_size: pixels per side of the result.
        cache: folder for decoded tensors; anything in it may be deleted at any time.
        files_digest: hex digest that changes when the files change.

    Returns:
        ``(n, 1, image_size, image_size)`` float32: pixels in [0, 1] less PIXEL_CENTRE, divided
        by PIXEL_SCALE.

    Raises:
        DataError: an image that is missing, unreadable, of another shape or outside [0, 1].
    """
    names = " ".join(path.name for path in paths)
    recipe = f"{TRANSFORM_VERSION} {files_digest} {image_size} {names}"
    path = cache / f"{hashlib.sha256(recipe.encode()).hexdigest()[:24]}.npy"
    images = _read_cache(path, (len(paths), 1, image_size, image_size))
    if images is None:
        images = torch.empty(len(paths), 1, image_size, image_size, dtype=torch.float32)
        quiet = len(paths) < PROGRESS_FROM
        for row, file in enumerate(tqdm(paths, "Decoding mammograms", disable=quiet)):
            images[row, 0] = resize_area(read_image(file), image_size)
        with suppress(OSError):  # a read-only share or a full disk: decoded again next time
            _write_cache(path, images)
    return (images - PIXEL_CENTRE) / PIXEL_SCALE


def read_image(path: Path) -> NDArray[np.float32]:
    """One image as ``(height, width)`` float32 in [0, 1], upright.

    Arrays (npy) are the transposed image with grey in three equal channels, as the challenge's
    preprocessing leaves them: the first channel is transposed back. PNG of 8 or 16 bits is
    divided by the largest value of its depth.

    Raises:
        DataError: missing, unreadable, of another shape, or outside [0, 1].
    """
    try:
        image = _read_npy(path) if path.suffix == ".npy" else _read_png(path)
    except FileNotFoundError:
        raise DataError(f"{path} is missing, though the index names it") from None
    except (OSError, EOFError, ValueError, SyntaxError) as error:  # Pillow: SyntaxError
        raise DataError(f"{path} cannot be read: {error}") from error
    if not (np.isfinite(image).all() and image.min() >= 0.0 and image.max() <= 1.0):
        raise DataError(f"{path} has values outside [0, 1]")
    return image


def resize_area(image: NDArray[np.float32], image_size: int) -> torch.Tensor:
    """``(image_size, image_size)``: each new pixel is the mean of the old ones it touches."""
    resized = interpolate(
        torch.from_numpy(image)[None, None], size=(image_size, image_size), mode="area"
    )
    return resized[0, 0]


def content_digest(folder: Path, pattern: str, cache: Path) -> str:
    """``digest_tree(folder, pattern)``, remembered for as long as names, sizes and times stay.

    The digest itself depends on contents only, so it is the same on every machine; the memory
    spares reading gigabytes again for every cell.

    Raises:
        DataError: no file matches.
    """
    listing = hashlib.sha256(f"{folder.resolve()} {pattern}".encode())
    for path in sorted(folder.rglob(pattern)):
        state = path.stat()
        listing.update(f"\x00{path}\x00{state.st_size}\x00{state.st_mtime_ns}".encode())
    memory = cache / f"{listing.hexdigest()[:24]}.digest"
    try:
        return memory.read_text(encoding="ascii").strip()
    except OSError:
        digest = digest_tree(folder, pattern)
        with suppress(OSError):  # a read-only share has no memory, and works all the same
            cache.mkdir(parents=True, exist_ok=True)
            write_atomic(memory, digest + "\n")
        return digest


def _read_npy(path: Path) -> NDArray[np.float32]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype != np.float32 or array.ndim != 3 or array.shape[2] not in (1, 3):
        raise ValueError(f"(side, side, 3) float32 expected, found {array.shape} {array.dtype}")
    if array.shape[0] != array.shape[1]:
        raise ValueError(f"a square image expected, found {array.shape}")
    return np.ascontiguousarray(array[:, :, 0].T)


def _read_png(path: Path) -> NDArray[np.float32]:
    with Image.open(path) as image:
        deep = image.mode.startswith("I")
        pixels = np.asarray(image if deep else image.convert("L"))
    return np.asarray(pixels / np.float32(65535 if deep else 255), dtype=np.float32)


def _read_cache(path: Path, shape: tuple[int, ...]) -> torch.Tensor | None:
    """The cached tensor, or None where there is none that can be trusted."""
    try:
        images = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return torch.from_numpy(images) if images.shape == shape else None


def _write_cache(path: Path, images: torch.Tensor) -> None:
    """Store the tensor under a temporary name, then rename: readers see all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            np.save(stream, images.numpy())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

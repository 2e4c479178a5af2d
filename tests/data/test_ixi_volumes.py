from __future__ import annotations

import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from fedprivacy.data import ixi_volumes
from fedprivacy.data.ixi_files import Subject
from fedprivacy.data.ixi_volumes import (
    load_volumes,
    read_pair,
    resize_area,
    resize_mask,
    zscore,
)
from fedprivacy.errors import DataError

SHAPE = (6, 5, 7)


def save(path: Path, array: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return path


def subject(folder: Path, name: str, image: np.ndarray, mask: np.ndarray) -> Subject:
    return Subject(
        name,
        name.split("-")[0],
        name.split("-")[1],
        save(folder / f"{name}_image.nii.gz", image),
        save(folder / f"{name}_label.nii.gz", mask),
    )


@pytest.fixture
def two(tmp_path):
    rng = np.random.default_rng(0)
    names = ("IXI002-Guys-0828", "IXI012-HH-1211")
    return [
        subject(
            tmp_path,
            name,
            rng.integers(0, 2000, (10, 8, 9)).astype(np.int16),
            rng.integers(0, 2, (10, 8, 9)).astype(np.uint8),
        )
        for name in names
    ]


def naive_area(volume: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Mean over old voxels floor(i n / m) .. ceil((i + 1) n / m) - 1 along each axis."""
    out = np.empty(shape)
    for index in np.ndindex(*shape):
        window = tuple(
            slice(i * n // m, math.ceil((i + 1) * n / m))
            for i, n, m in zip(index, volume.shape, shape, strict=True)
        )
        out[index] = volume[window].mean(dtype=np.float64)
    return out


@pytest.mark.parametrize("shape", [(6, 5, 7), (4, 4, 3), (10, 8, 9), (5, 12, 9)])
def test_resize_is_the_mean_over_covered_voxels(shape):
    volume = np.random.default_rng(1).normal(size=(10, 8, 9)).astype(np.float32)
    np.testing.assert_allclose(resize_area(volume, shape), naive_area(volume, shape), atol=1e-6)


def test_zscore_is_over_the_whole_volume():
    volume = torch.from_numpy(np.random.default_rng(2).normal(300, 50, SHAPE)).float()
    expected = (volume.numpy() - volume.numpy().mean()) / volume.numpy().std()
    np.testing.assert_allclose(zscore(volume), expected, atol=1e-4)
    assert zscore(torch.full(SHAPE, 7.0)).abs().max() == 0


def test_each_label_path_means_what_it_says():
    mask = np.random.default_rng(3).integers(0, 2, (10, 8, 9)).astype(np.float32)
    mask[:5] = 1
    share = naive_area(mask, SHAPE)
    assert set(np.unique(share == 1)) == {False, True}
    np.testing.assert_array_equal(resize_mask(mask, SHAPE, "flamby"), share == 1)
    np.testing.assert_array_equal(resize_mask(mask, SHAPE, "threshold"), share >= 0.5)
    centres = [
        np.floor((np.arange(m) + 0.5) * n / m).astype(int)
        for n, m in zip(mask.shape, SHAPE, strict=True)
    ]
    np.testing.assert_array_equal(resize_mask(mask, SHAPE, "nearest"), mask[np.ix_(*centres)])
    assert resize_mask(mask, SHAPE, "nearest").dtype == torch.int64


def test_flambys_label_path_erodes_a_smooth_mask():
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in (83, 44, 55)), indexing="ij", sparse=True)
    ellipsoid = sum((a / r) ** 2 for a, r in zip(axes, (0.75, 0.75, 0.8), strict=True)) <= 1
    mask = ellipsoid.astype(np.float32)
    flamby, half, nearest = (
        float(resize_mask(mask, (48, 60, 48), way).sum())
        for way in ("flamby", "threshold", "nearest")
    )
    assert 0.82 < flamby / half < 0.94
    assert nearest / half == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(
    ("image", "mask", "complaint"),
    [
        (np.ones((4, 4, 4)), np.ones((4, 4, 5)), "must be 3-D and of one shape"),
        (np.ones((4, 4)), np.ones((4, 4)), "must be 3-D"),
        (np.full((4, 4, 4), np.nan), np.ones((4, 4, 4)), "not finite"),
        (np.ones((4, 4, 4)), np.full((4, 4, 4), 255.0), r"holds \[255\.\]"),
        (np.ones((4, 4, 4)), np.full((4, 4, 4), 0.5), r"holds \[0\.5\]"),
    ],
)
def test_bad_volumes_are_refused(tmp_path, image, mask, complaint):
    bad = subject(tmp_path, "IXI002-Guys-0828", image.astype(np.float32), mask.astype(np.float32))
    with pytest.raises(DataError, match=complaint):
        read_pair(bad)


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"not gzip", lambda b: b""]
)
def test_damaged_files_are_named(two, damage):
    content = two[0].image.read_bytes()
    two[0].image.write_bytes(damage(content))
    with pytest.raises(DataError, match=r"IXI002-Guys-0828_image\.nii\.gz is damaged"):
        read_pair(two[0])


def test_decoded_volumes(two, tmp_path):
    volumes = load_volumes(two, SHAPE, "threshold", tmp_path / "cache", "digest")
    assert (volumes.images.shape, volumes.images.dtype) == ((2, 1, *SHAPE), torch.float32)
    assert (volumes.masks.shape, volumes.masks.dtype) == ((2, *SHAPE), torch.int64)
    for row, one in enumerate(two):
        image, mask = (np.asarray(nib.load(p).dataobj, np.float32) for p in (one.image, one.mask))
        area = naive_area(image, SHAPE)
        np.testing.assert_allclose(
            volumes.images[row, 0], (area - area.mean()) / area.std(), atol=1e-5
        )
        np.testing.assert_array_equal(volumes.masks[row], naive_area(mask, SHAPE) >= 0.5)


def test_second_load_reads_the_cache_only(two, tmp_path, monkeypatch):
    first = load_volumes(two, SHAPE, "flamby", tmp_path / "cache", "digest")
    reads = []

    def counted(one):
        reads.append(one.name)
        return read_pair(one)

    monkeypatch.setattr(ixi_volumes, "read_pair", counted)
    again = load_volumes(two, SHAPE, "flamby", tmp_path / "cache", "digest")
    assert reads == []
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.masks, again.masks)
    assert again.masks.dtype == torch.int64

    for shape, way, digest in (
        (SHAPE, "flamby", "other"),
        (SHAPE, "nearest", "digest"),
        ((5, 5, 5), "flamby", "digest"),
    ):
        reads.clear()
        load_volumes(two, shape, way, tmp_path / "cache", digest)
        assert len(reads) == 2, (shape, way, digest)


def test_damaged_cache_is_made_again(two, tmp_path):
    first = load_volumes(two, SHAPE, "flamby", tmp_path / "cache", "digest")
    (entry,) = (tmp_path / "cache").iterdir()
    entry.write_bytes(entry.read_bytes()[:200])
    again = load_volumes(two, SHAPE, "flamby", tmp_path / "cache", "digest")
    assert torch.equal(first.images, again.images)
    (entry,) = (tmp_path / "cache").iterdir()
    assert np.load(entry)["images"].shape == (2, 1, *SHAPE)


def test_interrupted_write_leaves_no_cache(two, tmp_path, monkeypatch):
    def broken(stream, **arrays):
        stream.write(b"half of it")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", broken)
    with pytest.raises(OSError, match="disk full"):
        load_volumes(two, SHAPE, "flamby", tmp_path / "cache", "digest")
    assert list((tmp_path / "cache").iterdir()) == []

"""Pixels: both file formats, the resize, the cache and the remembered digest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fedprivacy.data import breast_images
from fedprivacy.data.breast_images import content_digest, load_images, read_image, resize_area
from fedprivacy.data.files import digest_tree
from fedprivacy.errors import DataError

UPRIGHT = np.random.default_rng(0).integers(0, 256, (6, 6)).astype(np.uint8)


def save_npy(path: Path, image: NDArray[np.float32]) -> None:
    np.save(path, np.repeat(image.T[:, :, None], 3, axis=2))


def test_npy_and_png_of_one_image_are_the_same_pixels_upright(tmp_path: Path) -> None:
    save_npy(tmp_path / "a.npy", UPRIGHT.astype(np.float32) / np.float32(255))
    Image.fromarray(UPRIGHT).save(tmp_path / "a.png")
    Image.fromarray(UPRIGHT).convert("RGB").save(tmp_path / "rgb.png")
    for name in ("a.npy", "a.png", "rgb.png"):
        image = read_image(tmp_path / name)
        assert image.dtype == np.float32
        np.testing.assert_array_equal(image, UPRIGHT.astype(np.float32) / np.float32(255))


def test_sixteen_bit_png_is_scaled_by_its_own_depth(tmp_path: Path) -> None:
    deep = np.array([[0, 65535], [256, 32768]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_allclose(read_image(tmp_path / "deep.png"), deep / 65535, atol=1e-7)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3)), "float32 expected.*float64"),
        (np.zeros((4, 4), np.float32), "float32 expected"),
        (np.zeros((3, 4, 4), np.float32), "float32 expected"),
        (np.zeros((4, 6, 3), np.float32), "square"),
        (np.full((4, 4, 3), 1.5, np.float32), r"outside \[0, 1\]"),
        (np.full((4, 4, 3), np.nan, np.float32), r"outside \[0, 1\]"),
    ],
)
def test_arrays_in_another_format_are_refused(
    tmp_path: Path, array: NDArray[np.float64], message: str
) -> None:
    np.save(tmp_path / "bad.npy", array)
    with pytest.raises(DataError, match=rf"bad\.npy.*{message}"):
        read_image(tmp_path / "bad.npy")


@pytest.mark.parametrize("name", ["cut.npy", "cut.png"])
def test_damaged_and_missing_files_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="is missing, though the index names it"):
        read_image(tmp_path / name)
    save_npy(tmp_path / "cut.npy", np.zeros((8, 8), np.float32))
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "cut.png")
    path = tmp_path / name
    for length in (path.stat().st_size - 30, 20, 0):
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(DataError, match="cannot be read"):
            read_image(path)


def test_area_resize_is_the_mean_of_the_pixels_covered() -> None:
    image = np.random.default_rng(1).random((12, 6)).astype(np.float32)
    blocks = image.reshape(3, 4, 3, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(resize_area(image, 3).numpy(), blocks, rtol=1e-6)


def test_pixels_are_scaled_by_the_constants(tmp_path: Path) -> None:
    save_npy(tmp_path / "a.npy", UPRIGHT.astype(np.float32) / np.float32(255))
    images = load_images([tmp_path / "a.npy"], 6, tmp_path / "cache", "d")
    assert images.shape == (1, 1, 6, 6)
    assert images.dtype == torch.float32
    np.testing.assert_allclose(images[0, 0].numpy(), (UPRIGHT / 255 - 0.2) / 0.25, atol=1e-6)


def test_the_cache_is_used_until_files_or_size_change(tmp_path: Path) -> None:
    path, cache = tmp_path / "a.npy", tmp_path / "cache"
    save_npy(path, np.zeros((8, 8), np.float32))
    first = load_images([path], 8, cache, "one")
    save_npy(path, np.ones((8, 8), np.float32))
    assert torch.equal(load_images([path], 8, cache, "one"), first)
    assert not torch.equal(load_images([path], 8, cache, "two"), first)
    assert load_images([path], 4, cache, "one").shape == (1, 1, 4, 4)
    assert not list(cache.glob("*.tmp"))


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    save_npy(tmp_path / "a.npy", np.zeros((8, 8), np.float32))
    first = load_images([tmp_path / "a.npy"], 8, tmp_path / "cache", "d")
    (stored,) = (tmp_path / "cache").glob("*.npy")
    stored.write_bytes(stored.read_bytes()[:100])
    assert torch.equal(load_images([tmp_path / "a.npy"], 8, tmp_path / "cache", "d"), first)
    assert len(np.load(stored)) == 1


def test_a_root_that_cannot_be_written_works_without_a_cache(tmp_path: Path) -> None:
    save_npy(tmp_path / "a.npy", np.zeros((8, 8), np.float32))
    blocked = tmp_path / "file"
    blocked.write_text("a file where the cache folder would be")
    assert load_images([tmp_path / "a.npy"], 8, blocked / "cache", "d").shape == (1, 1, 8, 8)
    assert content_digest(tmp_path, "*.npy", blocked / "cache") == digest_tree(tmp_path, "*.npy")


def test_the_digest_is_of_contents_and_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "files").mkdir()
    path = tmp_path / "files" / "a.npy"
    path.write_bytes(b"one")
    digest = content_digest(tmp_path / "files", "*.npy", tmp_path / "cache")
    assert digest == digest_tree(tmp_path / "files", "*.npy")
    with monkeypatch.context() as patch:
        patch.setattr(breast_images, "digest_tree", lambda *_: pytest.fail("read again"))
        assert content_digest(tmp_path / "files", "*.npy", tmp_path / "cache") == digest
    path.write_bytes(b"longer")
    assert content_digest(tmp_path / "files", "*.npy", tmp_path / "cache") != digest

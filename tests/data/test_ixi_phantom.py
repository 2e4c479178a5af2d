from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from fedprivacy.data.ixi_phantom import (
    DISK_SHAPE,
    SPACING_MM,
    STYLES,
    _rotation,
    disk_affine,
    head_model,
    phantom,
    smooth_field,
)


@pytest.fixture(scope="module")
def pairs():
    return {
        (site, number): phantom(style, np.random.default_rng([number, len(site)]))
        for site, style in STYLES.items()
        for number in range(3)
    }


def dice(first, second):
    return 2 * np.sum(first & second) / (first.sum() + second.sum())


def test_affine_gives_the_box_of_the_real_set():
    image = nib.as_closest_canonical(nib.Nifti1Image(np.zeros(DISK_SHAPE), disk_affine()))
    assert image.shape == (44, 55, 83)
    np.testing.assert_allclose(image.header.get_zooms(), (4.13, 3.95, 2.18), rtol=1e-6)
    corners = nib.affines.apply_affine(image.affine, [(-0.5, -0.5, -0.5), (43.5, 54.5, 82.5)])
    np.testing.assert_allclose(corners, [(-90, -126, -72), (90, 90, 108)], atol=1.0)


def test_image_and_mask_are_of_the_format_and_of_human_size(pairs):
    for (site, _), (image, mask) in pairs.items():
        assert (image.dtype, image.shape) == (np.int16, DISK_SHAPE)
        assert (mask.dtype, set(np.unique(mask))) == (np.uint8, {0, 1})
        litres = mask.sum() * np.prod(SPACING_MM) / 1e6
        assert 1.3 < litres < 2.2, site
        assert 0 <= image.min() < image.max() < 5000
        labels, _ = ndimage.label(mask)
        assert np.bincount(labels.ravel())[1:].max() > 0.99 * mask.sum()


def test_subjects_differ_and_so_do_scanners(pairs):
    masks = [mask > 0 for _, mask in pairs.values()]
    overlaps = [dice(masks[i], masks[j]) for i in range(9) for j in range(i)]
    assert max(overlaps) < 0.97
    assert min(overlaps) > 0.75
    levels = {
        site: [np.median(pairs[site, n][0][pairs[site, n][1] > 0]) for n in range(3)]
        for site in STYLES
    }
    assert max(levels["IOP"]) < min(levels["Guys"]) < max(levels["Guys"]) < max(levels["HH"])


def test_the_stream_decides_everything(pairs):
    image, mask = phantom(STYLES["HH"], np.random.default_rng([1, 2]))
    np.testing.assert_array_equal(image, pairs["HH", 1][0])
    np.testing.assert_array_equal(mask, pairs["HH", 1][1])
    assert (image != pairs["HH", 2][0]).mean() > 0.5


def test_tissue_is_brighter_than_fluid_and_bone_and_grey_lies_between(pairs):
    for (site, _), (image, mask) in pairs.items():
        inside = ndimage.binary_erosion(mask, iterations=4)
        centre, brain = np.percentile(image[inside], [50, 95])
        rim = ndimage.binary_dilation(mask, iterations=2) & (mask == 0)
        air = image[-3:, :3, :3].mean()
        assert air < np.median(image[rim]) < centre < brain, site


def test_smooth_field_has_unit_variance_everywhere_and_the_scale_asked_for():
    rng = np.random.default_rng(0)
    fields = np.stack([smooth_field(rng, 25.0)[::8, ::6, ::6] for _ in range(400)])
    assert fields.shape[1:] == (11, 8, 10)
    np.testing.assert_allclose(fields.std(axis=0), 1.0, atol=0.2)
    np.testing.assert_allclose(fields.mean(axis=0), 0.0, atol=0.25)

    field = smooth_field(rng, 25.0)
    steps = [np.corrcoef(field[:-k].ravel(), field[k:].ravel())[0, 1] for k in (1, 12, 40)]
    assert steps[0] > 0.98 > 0.7 > steps[1] > 0.1 > abs(steps[2]) - 0.25


def test_rotation_is_a_rotation():
    matrix = _rotation(np.array([0.1, -0.2, 0.3]))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1.0)
    turn = _rotation(np.array([0.0, 0.0, np.pi / 2]))
    np.testing.assert_allclose(turn @ (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), atol=1e-12)


def test_distance_of_the_head_model_grows_away_from_the_brain():
    head = head_model()

    def distance_at(*millimetres):
        voxel = head.to_voxel @ (*millimetres, 1.0)
        return ndimage.map_coordinates(head.maps[3], voxel[:3, None], order=1)[0]

    assert distance_at(20, -20, 20) < -20
    assert distance_at(0, -20, 95) > 8
    # 30 mm further out along the same line is 30 mm further away.
    assert distance_at(0, -20, 125) - distance_at(0, -20, 95) == pytest.approx(30, abs=1)

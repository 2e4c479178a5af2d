from __future__ import annotations

from importlib.resources import files

import numpy as np
import pytest

from fedprivacy.data import mni_template
from fedprivacy.data.mni_template import BLOCK_MM, LEVELS, derive, load_template
from fedprivacy.errors import DataError


def test_volumes_and_position_are_those_of_the_template():
    template = load_template()
    litres = BLOCK_MM**3 / 1e6
    # nilearn's own mask (skull-stripped T1 above 0.2 of its maximum) holds 1.883 L.
    assert template.brain.sum() * litres == pytest.approx(1.883, abs=0.005)
    assert template.grey.sum() > template.white.sum() > 0.6 / litres
    assert (template.grey + template.white).max() < 1.2
    where = np.argwhere(template.brain > 0.5)
    centre = template.affine[:3, :3] @ where.mean(axis=0) + template.affine[:3, 3]
    np.testing.assert_allclose(centre, (0, -20, 8), atol=5)


def test_derive_averages_blocks_of_the_millimetre_grid():
    rng = np.random.default_rng(0)
    shape = (197, 233, 189)
    grey, white = rng.random(shape, dtype=np.float32), rng.random(shape, dtype=np.float32)
    t1 = np.zeros(shape, dtype=np.float32)
    t1[50:110, 60:150, 20:100] = 0.9
    t1[70, 80, 50] = 0.0  # a hole, which the mask must not have
    affine = np.eye(4)
    affine[:3, 3] = (-98, -134, -72)

    arrays = derive(t1, grey, white, affine)

    for index in ((0, 0, 0), (20, 33, 10), (53, 65, 53)):
        start = [(low + i) * 3 for i, (low, _) in zip(index, mni_template.CROP, strict=True)]
        block = tuple(slice(s, s + 3) for s in start)
        assert arrays["grey"][index] == round(float(grey[block].mean()) * LEVELS)
        middle = np.array(start) + 1 + affine[:3, 3]
        position = arrays["affine"] @ (*index, 1.0)
        np.testing.assert_allclose(position[:3], middle)
    assert arrays["brain"].sum() == LEVELS * 60 * 90 * 80 / 27
    assert arrays["white"].dtype == np.uint8


@pytest.mark.slow
def test_shipped_file_is_derived_from_nilearns_maps():
    datasets = pytest.importorskip("nilearn.datasets")
    t1 = datasets.load_mni152_template(resolution=1)
    grey, white = (
        load(resolution=1).get_fdata(dtype=np.float32)
        for load in (datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
    )
    arrays = derive(t1.get_fdata(dtype=np.float32), grey, white, t1.affine)
    template = load_template()
    for name in ("grey", "white", "brain"):
        shipped = np.rint(getattr(template, name) * LEVELS)
        np.testing.assert_array_equal(shipped, arrays[name])
    np.testing.assert_array_equal(template.affine, arrays["affine"])


def test_notice_of_the_copyright_holder_ships_with_the_file():
    notice = files("fedprivacy.data").joinpath("assets", "NOTICE.mni152.txt").read_text()
    assert "Louis Collins" in notice
    assert "provided that the above copyright\nnotice appear in all copies" in notice


def test_altered_file_is_refused(monkeypatch):
    monkeypatch.setattr(mni_template, "ASSET_SHA256", "0" * 64)
    with pytest.raises(DataError, match="not the file that was shipped"):
        load_template()


def test_missing_file_is_refused(monkeypatch):
    monkeypatch.setattr(mni_template, "ASSET", "absent.npz")
    with pytest.raises(DataError, match=r"absent\.npz is missing"):
        load_template()

from __future__ import annotations

import csv
import re

import nibabel as nib
import numpy as np
import pytest
from scipy.stats import ks_2samp

from fedprivacy.data import ixi_generator
from fedprivacy.data.ixi_files import SITES, complete_subjects
from fedprivacy.data.ixi_generator import SIZES, TREE, generate, generate_subjects
from fedprivacy.data.ixi_phantom import DISK_SHAPE, disk_affine
from fedprivacy.data.ixi_volumes import read_pair, resize_area, resize_mask, zscore
from fedprivacy.errors import ConfigError

COUNTS = {"Guys": 12, "HH": 10, "IOP": 8}
SHAPE = (24, 32, 24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ixi")
    generate_subjects(folder, COUNTS, seed=3)
    return folder


@pytest.fixture(scope="module")
def subjects(folder):
    return complete_subjects(folder)


@pytest.fixture(scope="module")
def decoded(subjects):
    """Raw brain voxels by site, and resized images and masks."""
    raw = {site: [] for site in SITES}
    images, masks = [], []
    for subject in subjects:
        image, mask = read_pair(subject)
        raw[subject.site].append(image[mask > 0])
        images.append(zscore(resize_area(image, SHAPE)).numpy())
        masks.append(resize_mask(mask, SHAPE, "threshold").numpy() > 0)
    return raw, np.stack(images), np.stack(masks)


def mean_dice(predicted, masks):
    predicted = np.broadcast_to(predicted, masks.shape)
    overlap = (predicted & masks).sum(axis=(1, 2, 3))
    return float(np.mean(2 * overlap / (predicted.sum((1, 2, 3)) + masks.sum((1, 2, 3)))))


def test_tree_and_names_are_the_owners(folder, subjects):
    assert {s.site: sum(o.site == s.site for o in subjects) for s in subjects} == COUNTS
    numbers = [int(s.patient[3:]) for s in subjects]
    assert len(set(numbers)) == len(numbers)
    assert min(numbers) >= 2
    assert max(numbers) <= 662
    first = subjects[0]
    name = re.escape(first.name)
    inside = first.image.relative_to(folder).as_posix()
    assert re.fullmatch(rf"7kd5wj7v7p-3/IXI_sample/{name}/T1/{name}_image\.nii\.gz", inside)
    assert first.mask == folder / TREE / first.name / "label" / f"{first.name}_label.nii.gz"
    with open(folder / TREE / "participants.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [(r["FOLDER_NAME"], r["SITE_NAME"]) for r in rows] == [
        (s.name, s.site) for s in subjects
    ]


def test_files_are_nifti_of_the_real_geometry_and_marked_synthetic(folder, subjects):
    image, mask = nib.load(subjects[0].image), nib.load(subjects[0].mask)
    for volume in (image, mask):
        assert volume.shape == DISK_SHAPE
        np.testing.assert_allclose(volume.affine, disk_affine(), atol=1e-4)
        assert b"SYNTHETIC" in bytes(volume.header["descrip"])
        assert volume.header.get_xyzt_units()[0] == "mm"
    assert image.get_data_dtype() == np.int16
    assert mask.get_data_dtype() == np.uint8
    notice = (folder / "SYNTHETIC.txt").read_text()
    assert notice.startswith("SYNTHETIC DATA")
    assert "Louis Collins" in notice


def test_seed_decides_every_byte(tmp_path):
    counts = {"Guys": 1, "HH": 1, "IOP": 1}
    contents = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        generate_subjects(tmp_path / name, counts, seed)
        files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
        contents.append({str(p.relative_to(tmp_path / name)): p.read_bytes() for p in files})
    assert contents[0] == contents[1]
    assert contents[0].keys() != contents[2].keys()


def test_sizes_are_those_of_the_real_set_and_of_the_demonstration(tmp_path, monkeypatch):
    assert SIZES["full"] == {"Guys": 311, "HH": 181, "IOP": 74}
    assert SIZES["demo"] == {"Guys": 24, "HH": 16, "IOP": 8}
    asked = []
    monkeypatch.setattr(
        ixi_generator, "generate_subjects", lambda folder, counts, seed: asked.append(counts)
    )
    generate(tmp_path, "demo", 0)
    assert asked == [SIZES["demo"]]
    with pytest.raises(ConfigError, match=r"dataset\.size='huge'.*demo, full"):
        generate(tmp_path, "huge", 0)


def test_no_intensity_band_finds_the_brain(decoded):
    _, images, masks = decoded
    bands = [(low, high) for low in np.arange(-0.6, 1.6, 0.2) for high in (1.2, 1.6, 2.0, np.inf)]
    best = max(mean_dice((images > low) & (images < high), masks) for low, high in bands)
    assert 0.6 < best < 0.8


def test_the_average_brain_is_a_good_but_imperfect_guess(decoded):
    _, _, masks = decoded
    atlas = masks[::2].mean(axis=0) > 0.5
    assert 0.85 < mean_dice(atlas, masks[1::2]) < 0.97


def test_scanners_have_their_own_histograms(decoded):
    raw, _, _ = decoded

    def distance(first, second):
        return ks_2samp(np.concatenate(first), np.concatenate(second)).statistic

    within = max(distance(raw[site][::2], raw[site][1::2]) for site in SITES)
    between = [distance(raw[a], raw[b]) for a in SITES for b in SITES if a < b]
    assert min(between) > 0.2
    assert min(between) > 1.2 * within
    for a, b in (("Guys", "HH"), ("Guys", "IOP"), ("HH", "IOP")):
        medians = [[np.median(v) for v in raw[site]] for site in (a, b)]
        assert ks_2samp(*medians).pvalue < 0.01

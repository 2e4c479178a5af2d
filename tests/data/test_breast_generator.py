"""The stand-in: class mix, reader ceiling, learnability, file formats."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import Ridge
from sklearn.metrics import cohen_kappa_score

from fedprivacy.data import breast_generator as made
from fedprivacy.errors import ConfigError

SEEDS = range(8)


@pytest.fixture(scope="module")
def many() -> list[made.Patient]:
    return [patient for seed in SEEDS for patient in made.patients("full", seed)]


def linear_kappa(truth: NDArray[np.int64], guess: NDArray[np.int64]) -> float:
    return float(cohen_kappa_score(truth, guess, weights="linear"))


def test_grades_have_the_mix_of_screening(many: list[made.Patient]) -> None:
    mix = np.bincount([patient.label for patient in many], minlength=4) / len(many)
    np.testing.assert_allclose(mix, [0.12, 0.40, 0.41, 0.07], atol=0.02)


def test_a_perfect_measurement_agrees_with_the_reader_to_a_kappa_of_about_seven_tenths(
    many: list[made.Patient],
) -> None:
    read = np.array([patient.label for patient in many])
    perfect = np.array([made.grade(patient.latent) for patient in many])
    assert linear_kappa(read, perfect) == pytest.approx(0.71, abs=0.025)


def test_grade_is_the_ordinal_cut_with_the_declared_mix() -> None:
    quantiles = np.quantile(np.random.default_rng(0).standard_normal(400_000), [0.12, 0.52, 0.93])
    for label, cut in enumerate(quantiles):
        assert made.grade(cut - 0.02) == label
        assert made.grade(cut + 0.02) == label + 1


def test_noise_has_the_power_law_of_mammograms() -> None:
    side = 128
    fields = made.power_law_noise(np.random.default_rng(0), 40, side)
    power = (np.abs(np.fft.fft2(fields)) ** 2).mean(axis=0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    used = (frequency > 0.02) & (frequency < 0.4)
    slope = np.polyfit(np.log(frequency[used]), np.log(power[used]), 1)[0]
    assert slope == pytest.approx(-3.0, abs=0.1)
    np.testing.assert_allclose(fields.std(axis=(1, 2)), 1.0)


def dense_share(image: NDArray[np.uint8]) -> float:
    """Share of the breast that is closer to its brightest than to its darkest tissue."""
    tissue = image[image > 30].astype(float)
    low, high = np.quantile(tissue, [0.02, 0.98])
    return float((tissue > (low + high) / 2).mean())


def test_a_hand_made_density_reaches_a_useful_kappa() -> None:
    patients = list(made.patients("demo", made.SEED))
    features, labels, sites, train = [], [], [], []
    for patient in patients:
        images = made.render(patient, 64, made.SEED)
        for image in images:
            tissue = image[image > 30]
            features.append([dense_share(image), tissue.mean(), tissue.std(), (image > 30).mean()])
            labels.append(patient.label)
            sites.append(np.eye(3)[patient.site])
            train.append(patient.part == "train")
    x, y, known = np.hstack([features, sites]), np.array(labels), np.array(train)
    model = Ridge(alpha=1e-3).fit(x[known], y[known])
    guess = np.clip(np.rint(model.predict(x[~known])), 0, 3).astype(np.int64)
    kappa = linear_kappa(y[~known], guess)
    assert 0.35 < kappa < 0.72  # useful, and below what the reader's own error allows


def test_site_style_shows_in_the_pixels() -> None:
    def noise(site: int) -> float:
        images = made.render(made.Patient(1, site, "train", -3.0, 0), 64, 0).astype(float)
        return float(np.abs(np.diff(images[:, 24:40, 2:12], axis=1)).mean())

    assert noise(0) < noise(1) < noise(2)


def test_views_are_mirrored_and_only_mlo_shows_the_muscle() -> None:
    left_cc, left_mlo, right_cc, right_mlo = made.render(
        made.Patient(3, 0, "train", -2.0, 0), 64, 0
    )
    for left, right in ((left_cc, right_cc), (left_mlo, right_mlo)):
        assert left[:, 0].any()
        assert not left[:, -1].any()
        assert right[:, -1].any()
        assert not right[:, 0].any()
    wedge = (slice(4, 16), slice(0, 6))
    assert left_mlo[wedge].max() > 190 > left_cc[wedge].max()


def test_each_patient_has_her_own_stream() -> None:
    patients = list(made.patients("demo", 5))
    again = made.render(patients[7], 48, 5)
    made.render(patients[3], 48, 5)
    np.testing.assert_array_equal(made.render(patients[7], 48, 5), again)
    assert list(made.patients("demo", 5)) == patients
    assert list(made.patients("demo", 6)) != patients
    assert not np.array_equal(made.render(patients[7], 48, 6), again)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> made.Scale:
    scale = made.Scale(side=32, train=4, test1=1, test2=2)
    monkeypatch.setitem(made.SIZES, "demo", scale)
    return scale


def test_datalists_are_in_the_challenges_format(tmp_path: Path, few: made.Scale) -> None:
    made.generate(tmp_path, "demo", 0)
    names, patients = [], []
    for site in (1, 2, 3):
        lists = json.loads((tmp_path / f"dataset_site-{site}.json").read_text())
        assert list(lists) == ["train", "test1", "test2"]
        assert [len(lists[key]) for key in lists] == [16, 4, 8]
        for entry in (entry for key in lists for entry in lists[key]):
            assert set(entry) == {"patient_id", "image", "label"}
            assert entry["label"] in (0, 1, 2, 3)
            names.append(entry["image"])
            patients.append((entry["patient_id"], site))
    assert len(set(names)) == len(names) == few.images == 84
    assert len(set(patients)) == len({patient for patient, _ in patients}) == 21
    for name in names:
        array = np.load(tmp_path / "preprocessed" / name)
        assert array.dtype == np.float32
        assert array.shape == (32, 32, 3)
        assert 0.0 <= array.min() < 0.1 < 0.3 < array.max() <= 1.0
        np.testing.assert_array_equal(array[..., 0], array[..., 2])


def test_rsna_table_has_the_owners_columns_and_trap(tmp_path: Path, few: made.Scale) -> None:
    made.generate_rsna(tmp_path, "demo", 0)
    with open(tmp_path / "train.csv", newline="") as handle:
        reader = csv.DictReader(handle)
        rows = list(reader)
    assert ",".join(reader.fieldnames or ()) == (
        "site_id,patient_id,image_id,laterality,view,age,cancer,biopsy,invasive,BIRADS,implant,"
        "density,machine_id,difficult_negative_case"
    )
    graded = [row for row in rows if row["density"]]
    assert len(graded) == few.images
    assert {row["density"] for row in graded} <= set("ABCD")
    assert {row["site_id"] for row in graded} == {"1"}
    assert {row["site_id"] for row in rows if not row["density"]} == {"2"}
    assert len({row["machine_id"] for row in graded}) == 3
    for row in rows:
        with Image.open(tmp_path / "images" / f"{row['patient_id']}_{row['image_id']}.png") as png:
            assert (png.mode, png.size) == ("L", (32, 32))


@pytest.mark.parametrize("write", [made.generate, made.generate_rsna])
def test_an_unknown_size_is_refused(
    tmp_path: Path, write: Callable[[Path, str, int], None]
) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.size='huge'.*demo or full"):
        write(tmp_path, "huge", 0)
    assert not list(tmp_path.iterdir())

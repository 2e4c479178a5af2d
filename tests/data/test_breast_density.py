"""Breast density from files to sites: both layouts, every partition, no patient in two places."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fedprivacy.config.schema import BreastDensityConf, WisconsinConf
from fedprivacy.data import breast_generator
from fedprivacy.data.base import FederatedData
from fedprivacy.data.breast_density import DATASET, verify
from fedprivacy.data.files import STAMP_NAME
from fedprivacy.errors import ConfigError, DataError

SIDE = 16
SMALL = breast_generator.Scale(side=32, train=10, test1=2, test2=4)


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BreastDensityConf:
    """A stand-in of 48 patients; changes of it share the folder."""
    monkeypatch.setitem(breast_generator.SIZES, "demo", SMALL)
    return BreastDensityConf(root=str(tmp_path), size="demo", image_size=SIDE, metric="kappa")


def loaded(conf: BreastDensityConf) -> FederatedData:
    DATASET.prepare(conf)
    return DATASET.load(conf)


def records(data: FederatedData) -> dict[tuple[int, bytes], int]:
    """(patient's number, pixels) -> label, over all sites and sides."""
    found = {}
    for site in data.sites:
        for x, y, patients in (
            (site.train_x, site.train_y, site.train_patients),
            (site.test_x, site.test_y, site.test_patients),
        ):
            for image, label, patient in zip(x, y, patients, strict=True):
                found[int(patient.removeprefix("P_")), image.numpy().tobytes()] = int(label)
    return found


def assert_sound(data: FederatedData) -> None:
    """What every load must satisfy, and nobody twice."""
    at: dict[str, set[str]] = {}
    for site in data.sites:
        assert site.train_x.shape == (len(site.train_y), *data.input_shape)
        assert site.test_x.shape == (len(site.test_y), *data.input_shape)
        assert len(site.train_patients) == len(site.train_y) > 0
        assert len(site.test_patients) == len(site.test_y) > 0
        for tensor in (site.train_x, site.test_x):
            assert tensor.dtype == torch.float32
            assert tensor.is_contiguous()
            assert -0.8 <= tensor.min() < tensor.max() <= 3.2
        for labels in (site.train_y, site.test_y):
            assert labels.dtype == torch.int64
            assert set(labels.tolist()) <= {0, 1, 2, 3}
        for side, patients in (("train", site.train_patients), ("test", site.test_patients)):
            for patient in patients:
                at.setdefault(patient, set()).add(f"{site.name} {side}")
    assert all(len(places) == 1 for places in at.values())


def test_the_stand_in_keeps_the_owners_sites_and_lists(conf: BreastDensityConf) -> None:
    data = loaded(conf)
    assert_sound(data)
    assert [site.name for site in data.sites] == ["site-1", "site-2", "site-3"]
    assert [len(site.train_y) for site in data.sites] == [40] * 3
    assert [len(site.test_y) for site in data.sites] == [24] * 3
    assert (data.name, data.task, data.n_classes, data.metric) == (
        "breast_density",
        "multiclass",
        4,
        "kappa",
    )
    assert data.synthetic
    stamp = json.loads(Path(conf.root, "synthetic", data.name, "demo", STAMP_NAME).read_text())
    assert stamp["synthetic"] is True
    assert "32 x 32" in stamp["image"]


def test_both_layouts_hold_the_same_records(conf: BreastDensityConf) -> None:
    datalist, rsna = loaded(conf), loaded(replace(conf, layout="rsna"))
    assert_sound(rsna)
    assert len(records(datalist)) == 192
    assert records(datalist) == records(rsna)
    assert [site.name for site in rsna.sites] == ["machine-29", "machine-48", "machine-49"]


@pytest.mark.parametrize("layout", ["datalist", "rsna"])
@pytest.mark.parametrize("partition", ["uniform", "linear", "square", "exponential", "dirichlet"])
def test_partitions_divide_patients(conf: BreastDensityConf, layout: str, partition: str) -> None:
    conf = replace(conf, layout=layout, partition=partition, n_sites=2)
    data = loaded(conf)
    assert_sound(data)
    assert [site.name for site in data.sites] == ["site-1", "site-2"]
    assert len(records(data)) == 192
    if layout == "datalist":  # whoever the owner holds out stays held out
        assert sum(len(site.test_y) for site in data.sites) == 72
    if partition in ("square", "exponential"):
        assert len(data.sites[0].train_y) < len(data.sites[1].train_y)


def test_small_alpha_skews_the_grades(conf: BreastDensityConf) -> None:
    def skew(alpha: float) -> float:
        data = loaded(replace(conf, partition="dirichlet", dirichlet_alpha=alpha, n_sites=2))
        shares = [torch.bincount(s.train_y, minlength=4) / len(s.train_y) for s in data.sites]
        return float((shares[0] - shares[1]).abs().sum())

    assert skew(0.3) > 2 * skew(1000.0)


def test_no_patient_keeps_more_records_than_the_cap(conf: BreastDensityConf) -> None:
    data = loaded(replace(conf, max_records_per_patient=1))
    assert_sound(data)
    for site in data.sites:
        assert len(set(site.train_patients)) == len(site.train_y) == 10
        assert len(set(site.test_patients)) == len(site.test_y) == 6


def test_load_is_deterministic_and_survives_without_its_cache(conf: BreastDensityConf) -> None:
    first, again = loaded(conf), loaded(conf)
    for path in (Path(conf.root) / "cache").rglob("*.npy"):
        path.unlink()
    for data in (again, loaded(conf)):
        assert data.fingerprint == first.fingerprint
        assert records(data) == records(first)
        for left, right in zip(data.sites, first.sites, strict=True):
            assert torch.equal(left.train_x, right.train_x)
            assert left.train_patients.tolist() == right.train_patients.tolist()


def test_fingerprint_follows_the_records(conf: BreastDensityConf) -> None:
    DATASET.prepare(conf)
    changed = [
        replace(conf, image_size=8),
        replace(conf, partition="uniform"),
        replace(conf, partition="uniform", n_sites=2),
        replace(conf, split_seed=1),
        replace(conf, max_records_per_patient=2),
    ]
    prints = {DATASET.fingerprint(each) for each in (conf, *changed)}
    assert len(prints) == 1 + len(changed)
    # What does not touch the records leaves it alone.
    assert DATASET.fingerprint(replace(conf, declared_records=7)) == DATASET.fingerprint(conf)
    folder = Path(conf.root, "synthetic", "breast_density", "demo")
    index = folder / "dataset_site-1.json"
    lists = json.loads(index.read_text())
    lists["train"][0]["label"] = (lists["train"][0]["label"] + 1) % 4
    index.write_text(json.dumps(lists))
    relabelled = DATASET.fingerprint(conf)
    assert relabelled not in prints
    image = next((folder / "preprocessed").glob("*.npy"))
    np.save(image, np.zeros((32, 32, 3), np.float32))
    assert DATASET.fingerprint(conf) not in {relabelled, *prints}


def test_a_generated_set_is_not_made_twice(conf: BreastDensityConf) -> None:
    DATASET.prepare(conf)
    image = next(Path(conf.root, "synthetic").rglob("*.npy"))
    before = image.stat().st_mtime_ns
    DATASET.prepare(conf)
    assert image.stat().st_mtime_ns == before


# ------------------------------------------------------------------ the owners' own files


def write_challenge(root: Path, split: bool = True) -> None:
    """Two sites, two training and one test patient each, in 224 x 224 as the owner writes."""
    folder = root / "real" / "breast_density"
    (folder / "preprocessed").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for site in (1, 2):
        lists: dict[str, list[dict[str, Any]]] = {"train": [], "test1": [], "test2": []}
        for number, key in enumerate(("train", "train", "test2"), start=10 * site):
            for view in ("LEFT_CC", "LEFT_MLO"):
                name = f"Calc-Training_P_{number:05d}_{view}.npy"
                grey = rng.random((224, 224, 1), dtype=np.float32)
                np.save(folder / "preprocessed" / name, np.repeat(grey, 3, axis=2))
                entry = {"patient_id": f"P_{number:05d}", "image": name, "label": number % 4}
                if not split and key == "test2":
                    del entry["label"]
                lists[key].append(entry)
        (folder / f"dataset_site-{site}.json").write_text(json.dumps(lists))


def real(root: Path, **changes: Any) -> BreastDensityConf:
    values = {"image_size": SIDE, "metric": "kappa", **changes}
    return BreastDensityConf(root=str(root), source="real", **values)


def test_the_challenges_files_load(tmp_path: Path) -> None:
    write_challenge(tmp_path)
    data = loaded(real(tmp_path))
    assert_sound(data)
    assert not data.synthetic
    assert [site.name for site in data.sites] == ["site-1", "site-2"]
    site = data.sites[1]
    assert site.train_patients.tolist() == ["P_00020"] * 2 + ["P_00021"] * 2
    assert site.train_y.tolist() == [0, 0, 1, 1]
    assert site.test_patients.tolist() == ["P_00022"] * 2
    folder = tmp_path / "real" / "breast_density" / "preprocessed"
    array = np.load(folder / "Calc-Training_P_00020_LEFT_MLO.npy")
    blocks = array[..., 0].T.reshape(16, 14, 16, 14).mean(axis=(1, 3))
    np.testing.assert_allclose(site.train_x[1, 0].numpy(), (blocks - 0.2) / 0.25, atol=1e-5)
    assert any("owner's lists" in words for words in data.assumptions)


def test_without_test_labels_patients_are_held_out_by_hash(tmp_path: Path) -> None:
    write_challenge(tmp_path, split=False)
    data = loaded(real(tmp_path))
    assert_sound(data)
    for site in data.sites:
        assert len(site.train_y) == len(site.test_y) == 2  # one of two patients each
    assert any("hash of the patient" in words for words in data.assumptions)


def test_a_patient_in_two_places_is_refused(tmp_path: Path) -> None:
    write_challenge(tmp_path)
    index = tmp_path / "real" / "breast_density" / "dataset_site-1.json"
    lists = json.loads(index.read_text())
    lists["test1"].append(dict(lists["train"][0]))
    index.write_text(json.dumps(lists))
    for partition in ("natural", "uniform"):
        with pytest.raises(DataError, match=r"P_00010 is in 2 places: site-1 test, site-1 train"):
            loaded(real(tmp_path, partition=partition, n_sites=2))
    assert any("P_00010 is in 2 places" in problem for problem in verify(tmp_path, "real"))


def write_rsna(root: Path, machines: dict[int, list[int]], images: int = 2) -> None:
    """Patients by machine; every one has ``images`` images, and one more from machine 99."""
    folder = root / "real" / "breast_density"
    folder.mkdir(parents=True)
    lines = [",".join(breast_generator.RSNA_COLUMNS)]
    rng = np.random.default_rng(0)
    for machine, patients in machines.items():
        for patient in patients:
            for image in range(images + 1):
                used = machine if image < images else 99
                density = "ABCD"[patient % 4]
                lines.append(
                    f"1,{patient},{image},L,CC,60,0,0,0,0.0,0,{density},{used},False",
                )
                pixels = rng.integers(0, 256, (20, 12), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{patient}_{image}.png")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")


def test_the_largest_machines_are_sites_and_the_rest_is_the_last(tmp_path: Path) -> None:
    write_rsna(tmp_path, {7: [1, 2], 5: [3, 4, 5, 6], 3: [8, 9, 10], 4: [11]})
    data = loaded(real(tmp_path, layout="rsna", n_sites=3))
    assert_sound(data)
    assert [site.name for site in data.sites] == ["machine-5", "machine-3", "other-machines"]
    people = [{*site.train_patients, *site.test_patients} for site in data.sites]
    # A patient's one image from machine 99 stays with her other two.
    assert people == [{"3", "4", "5", "6"}, {"8", "9", "10"}, {"1", "2", "11"}]
    assert len(records(data)) == 30
    every = loaded(real(tmp_path, layout="rsna", n_sites=2))
    assert [site.name for site in every.sites] == ["machine-5", "other-machines"]


def test_more_sites_than_machines_are_refused(tmp_path: Path) -> None:
    write_rsna(tmp_path, {5: [3, 4], 3: [8, 9]})
    data = loaded(real(tmp_path, layout="rsna", n_sites=2))
    assert [site.name for site in data.sites] == ["machine-3", "machine-5"]
    with pytest.raises(ConfigError, match=r"dataset\.n_sites=3.*from 1 to the 2 machines"):
        loaded(real(tmp_path, layout="rsna", n_sites=3))


def test_a_site_without_both_sides_is_refused(tmp_path: Path) -> None:
    write_challenge(tmp_path)
    index = tmp_path / "real" / "breast_density" / "dataset_site-2.json"
    lists = json.loads(index.read_text())
    index.write_text(json.dumps({**lists, "test2": []}))
    with pytest.raises(DataError, match="site site-2 has 4 training and 0 held-out images"):
        loaded(real(tmp_path))


# ------------------------------------------------------------------ what a user gets wrong


@pytest.mark.parametrize("layout", ["datalist", "rsna"])
def test_missing_real_files_name_the_way_out(tmp_path: Path, layout: str) -> None:
    with pytest.raises(DataError, match="fedprivacy data download breast_density") as caught:
        DATASET.prepare(real(tmp_path, layout=layout))
    assert str(tmp_path / "real" / "breast_density") in str(caught.value)


def test_an_image_that_is_missing_stops_prepare(tmp_path: Path) -> None:
    write_challenge(tmp_path)
    image = next((tmp_path / "real").rglob("*P_00010_LEFT_CC.npy"))
    image.unlink()
    with pytest.raises(
        DataError, match=rf"1 images that the index names are missing.*{image.name}"
    ):
        DATASET.prepare(real(tmp_path))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("source", "made_up"),
        ("size", "huge"),
        ("layout", "dicom"),
        ("partition", "random"),
        ("image_size", 4),
    ],
)
def test_values_that_cannot_be_used_are_refused(tmp_path: Path, key: str, value: object) -> None:
    conf = replace(BreastDensityConf(root=str(tmp_path)), **{key: value})
    calls: list[Callable[[BreastDensityConf], object]] = [
        DATASET.prepare,
        DATASET.fingerprint,
        DATASET.load,
    ]
    for call in calls:
        with pytest.raises(ConfigError, match=rf"dataset\.{key}={value!r}.*Fix: dataset\.{key}="):
            call(conf)
    assert not list(tmp_path.iterdir())


def test_another_datasets_configuration_is_a_programming_error() -> None:
    with pytest.raises(TypeError, match="BreastDensityConf"):
        DATASET.prepare(WisconsinConf())


def test_verify_finds_a_generated_set_sound(conf: BreastDensityConf) -> None:
    DATASET.prepare(conf)
    DATASET.prepare(replace(conf, layout="rsna"))
    assert verify(Path(conf.root), "synthetic") == []


def test_verify_names_what_is_wrong(conf: BreastDensityConf) -> None:
    root = Path(conf.root)
    assert "fedprivacy data generate breast_density" in verify(root, "synthetic")[0]
    assert "fedprivacy data download breast_density" in verify(root, "real")[0]
    DATASET.prepare(conf)
    folder = root / "synthetic" / "breast_density" / "demo"
    damaged, gone, *_ = sorted((folder / "preprocessed").glob("*.npy"))
    np.save(damaged, np.full((32, 32, 3), 2.0, np.float32))
    gone.unlink()
    (folder / "dataset_site-3.json").unlink()
    problems = verify(root, "synthetic")
    for words in (
        "datalists of 2 sites, not 3",
        "128 graded images, not 192",
        f"{damaged.name} has values outside",
        f"{gone.name} is missing",
    ):
        assert sum(words in problem for problem in problems) == 1, problems
    (folder / "dataset_site-2.json").write_text('{"train": [{"patient_id": "P", "image": "x"}]}')
    assert any("an entry has no 'label'" in problem for problem in verify(root, "synthetic"))


def test_the_metric_is_the_one_asked_for(conf: BreastDensityConf) -> None:
    assert loaded(conf).metric == "kappa"
    assert loaded(replace(conf, metric="accuracy")).metric == "accuracy"

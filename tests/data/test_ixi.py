from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from fedprivacy.config.schema import IxiConf
from fedprivacy.data import ixi, ixi_generator
from fedprivacy.data.files import NOTICE_NAME
from fedprivacy.data.ixi import DATASET, verify
from fedprivacy.data.ixi_generator import generate_subjects
from fedprivacy.errors import ConfigError, DataError

# Real names of the set's pattern; twelve subjects, four a site.
NAMES = [
    f"IXI{number:03d}-{site}-{900 + number:04d}"
    for site, numbers in (
        ("Guys", (2, 16, 17, 19)),
        ("HH", (12, 13, 14, 33)),
        ("IOP", (35, 230, 231, 232)),
    )
    for number in numbers
]
SHAPE = (12, 10, 11)
CONF = IxiConf(source="real", shape=[6, 6, 6], test_fraction=0.4, declared_records=3, metric="dice")


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)


def miniature(root: Path, layout: str) -> IxiConf:
    """The real layout by hand, with volumes that tell their subject apart."""
    base = root / "real" / "ixi_tiny"
    for number, name in enumerate(NAMES):
        rng = np.random.default_rng(number)
        image = rng.integers(0, 1500, SHAPE).astype(np.int16)
        mask = np.zeros(SHAPE, dtype=np.uint8)
        mask[2:10, 2:8, 2 : 6 + number % 4] = 1
        if layout == "tree":
            folder = base / "7kd5wj7v7p-3" / "IXI_sample" / name
            write(folder / "T1" / f"{name}_image.nii.gz", image)
            write(folder / "label" / f"{name}_label.nii.gz", mask)
        else:
            write(base / "ixi_tiny" / "image" / f"{name}_image.nii.gz", image)
            write(base / "ixi_tiny" / "label" / f"{name}_label.nii.gz", mask)
    return replace(CONF, root=str(root))


@pytest.fixture
def conf(tmp_path):
    return miniature(tmp_path / "data", "tree")


def all_patients(data):
    return [p for s in data.sites for p in (*s.train_patients, *s.test_patients)]


def test_natural_partition_of_the_real_tree(conf):
    DATASET.prepare(conf)
    data = DATASET.load(conf)
    assert [site.name for site in data.sites] == ["Guys", "HH", "IOP"]
    assert (data.task, data.n_classes, data.metric) == ("segmentation", 2, "dice")
    assert data.input_shape == (1, 6, 6, 6)
    assert data.synthetic is False
    assert data.fingerprint == DATASET.fingerprint(conf)
    assert sorted(all_patients(data)) == sorted(name.split("-")[0] for name in NAMES)
    for site in data.sites:
        assert len(site.train_x) == len(site.train_y) == len(site.train_patients) > 0
        assert len(site.test_x) == len(site.test_y) == len(site.test_patients) > 0
        assert len(site.train_x) + len(site.test_x) == 4
        for x, y in ((site.train_x, site.train_y), (site.test_x, site.test_y)):
            assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
            assert (x.shape[1:], y.shape[1:]) == ((1, 6, 6, 6), (6, 6, 6))
            assert x.is_contiguous()
            assert y.is_contiguous()
            assert set(torch.unique(y).tolist()) == {0, 1}
            np.testing.assert_allclose(x.flatten(1).mean(1), 0.0, atol=1e-5)
            np.testing.assert_allclose(x.flatten(1).std(1, unbiased=False), 1.0, atol=1e-5)


def test_records_stay_with_their_patient(conf):
    data = DATASET.load(conf)
    for site in data.sites:
        for x, y, patient in zip(site.train_x, site.train_y, site.train_patients, strict=True):
            number = [name.split("-")[0] for name in NAMES].index(patient)
            rng = np.random.default_rng(number)
            image = rng.integers(0, 1500, SHAPE).astype(np.float32)
            pooled = torch.nn.functional.adaptive_avg_pool3d(torch.from_numpy(image)[None], 6)
            assert np.corrcoef(pooled.ravel(), x.ravel())[0, 1] > 0.9999
            assert site.name in NAMES[number]
            assert y.sum() > 0


def test_torchios_layout_gives_the_same_tensors(conf, tmp_path):
    flat = miniature(tmp_path / "other", "flat")
    DATASET.prepare(flat)
    for one, other in zip(DATASET.load(conf).sites, DATASET.load(flat).sites, strict=True):
        assert one.train_patients.tolist() == other.train_patients.tolist()
        assert torch.equal(one.train_x, other.train_x)
        assert torch.equal(one.test_y, other.test_y)


def test_flambys_split_file_is_followed(conf, tmp_path):
    centres = {"Guys": 0, "HH": 1, "IOP": 2}
    held_out = {"IXI016", "IXI017", "IXI033", "IXI230"}
    lines = ["Patient ID,Manufacturer,Split"]
    for name in NAMES:
        patient, site, _ = name.split("-")
        split = "test" if patient in held_out else "train"
        lines.append(f"{int(patient[3:])},{centres[site]},{split}")
    path = tmp_path / "metadata_tiny.csv"
    path.write_text("\n".join(lines) + "\n")
    listed = replace(conf, split_file=str(path))
    data = DATASET.load(listed)
    assert {p for s in data.sites for p in s.test_patients} == held_out
    assert DATASET.fingerprint(listed) != DATASET.fingerprint(conf)
    moved = tmp_path / "renamed.csv"
    moved.write_text(path.read_text())
    same = replace(conf, split_file=str(moved))
    assert DATASET.fingerprint(same) == DATASET.fingerprint(listed)
    path.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(DataError, match="not in the split file"):
        DATASET.load(listed)


@pytest.mark.parametrize("kind", ["uniform", "linear"])
def test_other_partitions_mix_the_hospitals(conf, kind):
    data = DATASET.load(replace(conf, partition=kind, n_sites=2, test_fraction=0.3))
    assert [site.name for site in data.sites] == ["site-1", "site-2"]
    sizes = [len(site.train_x) + len(site.test_x) for site in data.sites]
    assert sizes == {"uniform": [6, 6], "linear": [4, 8]}[kind]
    assert len(set(all_patients(data))) == 12


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"partition": "dirichlet"}, r"dataset\.partition='dirichlet'.*no class"),
        ({"label_resize": "cubic"}, r"dataset\.label_resize='cubic'.*flamby, nearest, threshold"),
        ({"shape": [48, 60]}, r"dataset\.shape=\[48, 60\].*dataset\.shape=\[48,60,48\]"),
        ({"shape": [48, 60, 2]}, r"at least 4 voxels"),
        ({"size": "tiny"}, r"dataset\.size='tiny'.*demo, full"),
        ({"source": "auto"}, r"dataset\.source='auto'.*synthetic or real"),
        ({"max_records_per_patient": 0}, r"dataset\.max_records_per_patient=0"),
    ],
)
def test_values_that_cannot_be_used(conf, change, complaint):
    with pytest.raises(ConfigError, match=complaint):
        DATASET.load(replace(conf, **change))


def test_missing_real_files_name_folder_and_command(tmp_path):
    with pytest.raises(DataError, match="fedprivacy data download ixi_tiny") as caught:
        DATASET.prepare(replace(CONF, root=str(tmp_path)))
    assert str(tmp_path / "real" / "ixi_tiny") in str(caught.value)
    (tmp_path / "real" / "ixi_tiny").mkdir(parents=True)
    with pytest.raises(DataError, match="no IXI Tiny subject"):
        DATASET.prepare(replace(CONF, root=str(tmp_path)))


def test_absent_hospital_is_refused_by_the_natural_partition_only(conf):
    base = Path(conf.root) / "real" / "ixi_tiny" / "7kd5wj7v7p-3" / "IXI_sample"
    for folder in base.glob("*-IOP-*"):
        for path in folder.rglob("*.nii.gz"):
            path.unlink()
    with pytest.raises(DataError, match="no subject of IOP"):
        DATASET.load(conf)
    assert len(DATASET.load(replace(conf, partition="uniform", n_sites=2)).sites) == 2


def test_fingerprint_follows_the_records_and_not_their_place(conf, tmp_path):
    elsewhere = miniature(tmp_path / "elsewhere", "tree")
    assert DATASET.fingerprint(conf) == DATASET.fingerprint(elsewhere)
    changes = (
        {"shape": [6, 6, 7]},
        {"label_resize": "nearest"},
        {"split_seed": 1},
        {"partition": "uniform"},
    )
    others = {DATASET.fingerprint(replace(conf, **change)) for change in changes}
    assert len(others | {DATASET.fingerprint(conf)}) == 5
    first = next((Path(elsewhere.root) / "real").rglob("*_label.nii.gz"))
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[0, 0, 0] = 1
    before = DATASET.fingerprint(elsewhere)
    write(first, mask)
    assert DATASET.fingerprint(elsewhere) != before


def test_verify_names_what_is_wrong(conf):
    root = Path(conf.root)
    base = root / "real" / "ixi_tiny" / "7kd5wj7v7p-3" / "IXI_sample"
    (base / NAMES[0] / "label" / f"{NAMES[0]}_label.nii.gz").unlink()
    write(base / NAMES[1] / "label" / f"{NAMES[1]}_label.nii.gz", np.full(SHAPE, 3, np.uint8))
    (base / NAMES[2] / "T1" / f"{NAMES[2]}_image.nii.gz").write_bytes(b"broken")
    write(base / NAMES[3] / "T1" / f"{NAMES[3]}_image.nii.gz", np.ones((83, 44, 55), np.int16))
    write(base / NAMES[3] / "label" / f"{NAMES[3]}_label.nii.gz", np.zeros((83, 44, 55), np.uint8))
    problems = verify(root, "real")
    for expected in (
        "site Guys has 4 subjects, not 311",
        "site HH has 4 subjects, not 181",
        "site IOP has 4 subjects, not 74",
        f"{NAMES[0]} lacks its mask",
        "holds [3.]",
        f"{NAMES[2]}_image.nii.gz is damaged",
        f"{NAMES[3]} has an empty mask",
        f"{NAMES[4]} has shape (12, 10, 11), not (83, 44, 55)",
    ):
        assert any(expected in problem for problem in problems), expected
    assert len(problems) == 3 + 4 + 8


def test_verify_without_files_says_so(tmp_path):
    assert "holds no IXI Tiny subject" in verify(tmp_path, "real")[0]
    assert "fedprivacy data generate ixi_tiny" in verify(tmp_path, "synthetic")[0]


@pytest.fixture
def few(monkeypatch):
    """Three times three phantoms instead of the demo's 48."""
    counts = {"Guys": 3, "HH": 3, "IOP": 3}
    monkeypatch.setitem(ixi_generator.SIZES, "demo", counts)
    return counts


def test_synthetic_source_generates_once_and_loads_the_same_way(tmp_path, few, monkeypatch):
    conf = replace(CONF, source="synthetic", size="demo", root=str(tmp_path))
    DATASET.prepare(conf)

    def refused(folder, size, seed):
        raise AssertionError("generated twice")

    monkeypatch.setattr(ixi, "generate", refused)
    DATASET.prepare(conf)
    data = DATASET.load(conf)
    assert data.synthetic is True
    assert [len(s.train_x) + len(s.test_x) for s in data.sites] == [3, 3, 3]
    assert (tmp_path / "synthetic" / "ixi_tiny" / "demo" / "generator.json").is_file()
    assert verify(tmp_path, "synthetic") == []


def test_interrupted_generation_leaves_nothing_behind(tmp_path, few, monkeypatch):
    conf = replace(CONF, source="synthetic", size="demo", root=str(tmp_path))
    folder = tmp_path / "synthetic" / "ixi_tiny" / "demo"
    made = []

    def interrupted(style, rng):
        made.append(style)
        if len(made) == 4:
            raise KeyboardInterrupt
        return np.zeros((2, 2, 2), np.int16), np.zeros((2, 2, 2), np.uint8)

    with monkeypatch.context() as patch:
        patch.setattr(ixi_generator, "phantom", interrupted)
        with pytest.raises(KeyboardInterrupt):
            DATASET.prepare(conf)
    assert not folder.exists()
    DATASET.prepare(conf)
    assert verify(tmp_path, "synthetic") == []


@pytest.mark.slow
def test_demo_size_is_sound_and_holds_out_a_fifth_of_each_site(tmp_path):
    conf = IxiConf(
        size="demo", root=str(tmp_path), shape=[24, 32, 24], declared_records=13, metric="dice"
    )
    DATASET.prepare(conf)
    assert verify(tmp_path, "synthetic") == []
    sizes = [(len(site.train_x), len(site.test_x)) for site in DATASET.load(conf).sites]
    assert sizes == [(19, 5), (13, 3), (6, 2)]


def test_generated_subjects_are_read_like_real_ones(tmp_path):
    folder = tmp_path / "real" / "ixi_tiny"
    generate_subjects(folder, {"Guys": 2, "HH": 2, "IOP": 2}, seed=1)
    (folder / NOTICE_NAME).unlink()
    conf = replace(CONF, root=str(tmp_path))
    DATASET.prepare(conf)
    assert [len(s.train_x) + len(s.test_x) for s in DATASET.load(conf).sites] == [2, 2, 2]

from __future__ import annotations

from pathlib import Path

import pytest

from fedprivacy.data.ixi_files import complete_subjects, find_subjects, read_split_file
from fedprivacy.errors import DataError

NAMES = ("IXI002-Guys-0828", "IXI012-HH-1211", "IXI035-IOP-0873")


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def tree(folder: Path, names=NAMES) -> Path:
    base = folder / "7kd5wj7v7p-3" / "IXI_sample"
    for name in names:
        touch(base / name / "T1" / f"{name}_image.nii.gz")
        touch(base / name / "T2" / f"{name}_image.nii.gz")
        touch(base / name / "label" / f"{name}_label.nii.gz")
    touch(base / "participants.csv")
    return base


def flat(folder: Path, names=NAMES) -> Path:
    base = folder / "ixi_tiny"
    for name in names:
        touch(base / "image" / f"{name}_image.nii.gz")
        touch(base / "label" / f"{name}_label.nii.gz")
    return base


@pytest.mark.parametrize("layout", [tree, flat])
def test_both_layouts_are_found_at_any_depth(tmp_path, layout):
    base = layout(tmp_path / "some" / "where")
    subjects = complete_subjects(tmp_path)
    assert [s.name for s in subjects] == list(NAMES)
    assert [s.patient for s in subjects] == ["IXI002", "IXI012", "IXI035"]
    assert [s.site for s in subjects] == ["Guys", "HH", "IOP"]
    for subject in subjects:
        assert base in subject.image.parents
        assert subject.image.parent.name in ("T1", "image")
        assert subject.mask.parent.name == "label"


def test_any_file_name_in_a_subjects_folder_will_do(tmp_path):
    base = tmp_path / "IXI_sample" / NAMES[0]
    image, mask = touch(base / "T1" / "anything.nii.gz"), touch(base / "label" / "brain.nii.gz")
    (subject,) = complete_subjects(tmp_path)
    assert (subject.name, subject.image, subject.mask) == (NAMES[0], image, mask)


def test_foreign_files_are_ignored(tmp_path):
    base = tree(tmp_path)
    touch(tmp_path / "__MACOSX" / NAMES[0] / "T1" / f"._{NAMES[0]}_image.nii.gz")
    touch(base / "IXI999-Mars-0001" / "T1" / "IXI999-Mars-0001_image.nii.gz")
    touch(base / NAMES[0] / "T1" / "notes.txt")
    assert [s.name for s in complete_subjects(tmp_path)] == list(NAMES)


def test_both_layouts_at_once_are_refused(tmp_path):
    tree(tmp_path)
    flat(tmp_path)
    with pytest.raises(DataError, match="IXI002-Guys-0828 has two image files"):
        find_subjects(tmp_path)


def test_empty_folder_names_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"image/<subject>_image\.nii\.gz"):
        complete_subjects(tmp_path)


@pytest.mark.parametrize("part", ["image", "label"])
def test_missing_partner_is_named(tmp_path, part):
    base = flat(tmp_path)
    (base / part / f"{NAMES[1]}_{part}.nii.gz").unlink()
    with pytest.raises(DataError, match=r"1 of 3 subjects .* \(IXI012-HH-1211\)"):
        complete_subjects(tmp_path)
    lacking = find_subjects(tmp_path)[1]
    assert (lacking.image is None) == (part == "image")


SPLIT = "Patient ID,Manufacturer,Split\n2,0,test\n12,1,train\n35,2,train\n"


def split(tmp_path: Path, text: str):
    tree(tmp_path / "data")
    path = tmp_path / "metadata_tiny.csv"
    path.write_text(text)
    return read_split_file(path, complete_subjects(tmp_path / "data"))


def test_split_file_decides_who_is_held_out(tmp_path):
    assert split(tmp_path, SPLIT).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (SPLIT.replace("12,1,train\n", ""), r"1 subjects are on disk .* \(IXI012-HH-1211\)"),
        (SPLIT + "40,0,train\n", r"1 subjects are in the split file .* \(IXI040\)"),
        (SPLIT.replace("35,2", "35,1"), r"belong to another site .* \(IXI035-IOP-0873\)"),
        (SPLIT.replace("2,0,test", "2,0,validation"), "line 2: .* split 'validation'"),
        (SPLIT.replace("2,0,test", "2,7,test"), "line 2: .* centre '7'"),
        (SPLIT.replace("2,0,test", "two,0,test"), "line 2: patient 'two'"),
        (SPLIT + "2,0,test\n", "line 5: patient '2'"),
        (SPLIT.replace("Split", "Fold"), "has columns"),
        ("", "has columns None"),
    ],
)
def test_bad_split_files_are_refused(tmp_path, text, complaint):
    with pytest.raises(DataError, match=complaint) as caught:
        split(tmp_path, text)
    assert "metadata_tiny.csv" in str(caught.value)


def test_absent_split_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.csv cannot be read"):
        read_split_file(tmp_path / "nowhere.csv", [])

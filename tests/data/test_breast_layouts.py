"""The challenge's datalists and RSNA's table, on miniatures written here by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedprivacy.data.breast_layouts import index_files, natural_key, read_table
from fedprivacy.errors import ConfigError, DataError

HEADER = (
    "site_id,patient_id,image_id,laterality,view,age,cancer,biopsy,invasive,BIRADS,implant,"
    "density,machine_id,difficult_negative_case"
)


def entry(patient: str, view: str, label: int | None) -> dict[str, Any]:
    made: dict[str, Any] = {"patient_id": patient, "image": f"Mass-Training_{patient}_{view}.npy"}
    return made if label is None else {**made, "label": label}


def write_list(path: Path, **lists: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(lists, indent=4))


def test_datalists_give_sites_labels_and_the_owners_split(tmp_path: Path) -> None:
    for site in (1, 2):
        write_list(
            tmp_path / f"dataset_site-{site}.json",
            train=[entry(f"P_{site}1", "LEFT_CC", 3), entry(f"P_{site}1", "LEFT_MLO", 3)],
            test1=[entry(f"P_{site}2", "LEFT_CC", 0)],
            test2=[entry(f"P_{site}3", "RIGHT_CC", 1)],
        )
    image = tmp_path / "preprocessed" / "Mass-Training_P_21_LEFT_CC.npy"
    image.parent.mkdir()
    image.touch()
    table = read_table(tmp_path, "datalist")
    assert table.patients.tolist() == [
        "P_11",
        "P_11",
        "P_12",
        "P_13",
        "P_21",
        "P_21",
        "P_22",
        "P_23",
    ]
    assert table.labels.tolist() == [3, 3, 0, 1] * 2
    assert table.labels.dtype == np.int64
    assert table.groups.tolist() == ["site-1"] * 4 + ["site-2"] * 4
    assert table.held_out is not None
    assert table.held_out.tolist() == [False, False, True, True] * 2
    assert table.paths[4] == image


@pytest.mark.parametrize("place", ["", "data", "dataset_lists", "breast/data"])
def test_datalists_are_found_where_archives_leave_them(tmp_path: Path, place: str) -> None:
    write_list(tmp_path / place / "dataset_site-1.json", train=[entry("P_1", "LEFT_CC", 1)])
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "dataset_site-2.json").write_text("not a datalist")
    assert index_files(tmp_path, "datalist") == [tmp_path / place / "dataset_site-1.json"]


def test_blinded_test_lists_are_not_used(tmp_path: Path) -> None:
    write_list(
        tmp_path / "dataset_blinded_site-1.json",
        train=[entry("P_1", "LEFT_CC", 1), entry("P_2", "LEFT_CC", 2)],
        test=[entry("P_3", "LEFT_CC", None)],
    )
    table = read_table(tmp_path, "datalist")
    assert table.patients.tolist() == ["P_1", "P_2"]
    assert table.held_out is None


def test_open_lists_win_over_blinded_ones(tmp_path: Path) -> None:
    for kind in ("", "blinded_", "blinded_phase2_"):
        write_list(tmp_path / f"dataset_{kind}site-1.json", train=[entry("P_1", "LEFT_CC", 1)])
    assert index_files(tmp_path, "datalist") == [tmp_path / "dataset_site-1.json"]


def test_a_test_list_with_one_label_missing_is_left_out(tmp_path: Path) -> None:
    write_list(
        tmp_path / "dataset_site-1.json",
        train=[entry("P_1", "LEFT_CC", 1)],
        test1=[entry("P_2", "LEFT_CC", 2)],
        test2=[entry("P_3", "LEFT_CC", 2), entry("P_4", "LEFT_CC", None)],
    )
    table = read_table(tmp_path, "datalist")
    assert table.patients.tolist() == ["P_1", "P_2"]
    assert table.held_out is not None
    assert table.held_out.tolist() == [False, True]


def test_an_index_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.npy").touch()
    bad = {"patient_id": "P_1", "image": "../secret.npy", "label": 1}
    write_list(tmp_path / "set" / "dataset_site-1.json", train=[bad])
    assert read_table(tmp_path / "set", "datalist").paths == (tmp_path / "set" / "secret.npy",)


def test_sites_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for site in (10, 2, 1):
        write_list(tmp_path / f"dataset_site-{site}.json", train=[entry(f"P{site}", "LEFT_CC", 1)])
    assert read_table(tmp_path, "datalist").groups.tolist() == ["site-1", "site-2", "site-10"]
    assert sorted(["site-10", "site-9"], key=natural_key) == ["site-9", "site-10"]


@pytest.mark.parametrize("label", [4, -1, 2.0, "C", True, None])
def test_labels_outside_the_four_grades_are_refused(tmp_path: Path, label: object) -> None:
    bad = {"patient_id": "P_1", "image": "x.npy", "label": label}
    write_list(tmp_path / "dataset_site-1.json", train=[bad])
    with pytest.raises(DataError, match=r"dataset_site-1\.json: label .* is not one of 0, 1, 2, 3"):
        read_table(tmp_path, "datalist")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a datalist"),
        ('{"test1": []}', "is not a datalist"),
        ('{"train": {"a": 1}}', "'train' is not a list"),
        ('{"train": ["x.npy"]}', "an entry has no 'image'"),
        ('{"train": [{"image": "x.npy", "label": 1}]}', "an entry has no 'patient_id'"),
        ('{"train": []}', "no image with a density label"),
    ],
)
def test_a_damaged_datalist_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "dataset_site-1.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path, "datalist")


def write_rsna(folder: Path, *rows: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.csv").write_text("\n".join((HEADER, *rows)) + "\n")


def test_rsna_rows_without_a_density_are_dropped_and_machines_are_the_groups(
    tmp_path: Path,
) -> None:
    write_rsna(
        tmp_path,
        "2,10006,462822612,L,CC,61.0,0,0,0,,0,,29,False",
        "2,10006,1459541791,L,MLO,61.0,0,0,0,,0,nan,29,False",
        "1,10025,562340703,L,CC,75.0,0,0,0,,0,C,49,False",
        "1,10025,288394860,R,MLO,75.0,0,0,0,0.0,0,C,49,False",
        "1,9,1,R,CC,,1,1,1,0.0,0,A,21,True",
    )
    (tmp_path / "images").mkdir()
    nested, flat = tmp_path / "images" / "10025_288394860.png", tmp_path / "9_1.png"
    nested.touch()
    flat.touch()
    table = read_table(tmp_path, "rsna")
    assert table.labels.tolist() == [0, 2, 2]
    assert table.patients.tolist() == ["9", "10025", "10025"]
    assert table.groups.tolist() == ["machine-21", "machine-49", "machine-49"]
    assert table.held_out is None
    assert table.paths == (flat, nested, tmp_path / "10025_562340703.png")


def test_rsna_problems_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no train\.csv in"):
        read_table(tmp_path, "rsna")
    write_rsna(tmp_path, "1,1,1,L,CC,,0,0,0,,0,E,49,False")
    with pytest.raises(DataError, match=r"line 2: density 'E' is not A-D"):
        read_table(tmp_path, "rsna")
    write_rsna(tmp_path, "1,1,1,L,CC,,0,0,0,,0,,49,False")
    with pytest.raises(DataError, match="no image with a density label"):
        read_table(tmp_path, "rsna")
    (tmp_path / "train.csv").write_text("patient_id,image_id,density\n1,1,A\n")
    with pytest.raises(DataError, match="has no column machine_id"):
        read_table(tmp_path, "rsna")


def test_an_unknown_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.layout='dicom'.*datalist or rsna"):
        read_table(tmp_path, "dicom")
    with pytest.raises(DataError, match=r"no dataset_site-<i>\.json"):
        read_table(tmp_path, "datalist")

"""Archives that are broken or hostile write nothing; sound ones are merged whole."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fedprivacy.data.sources import Unpack
from fedprivacy.data.unpack import DamagedArchive, safe_path, unpack
from fedprivacy.errors import DataError

ZIP = Unpack("zip", limit=10_000)


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def assert_nothing_written(tmp_path: Path, archive: Path) -> None:
    assert [path.name for path in tmp_path.iterdir()] == [archive.name]


def test_zip_lands_whole_and_leaves_no_traces(tmp_path: Path) -> None:
    members = {"top/a.txt": b"a", "top/deep/b.txt": b"b" * 5000, "c.json": b"{}"}
    archive = make_zip(tmp_path / "a.zip", members)
    assert unpack(archive, ZIP, tmp_path / "real" / "set") == ["c.json", "top"]
    assert tree(tmp_path / "real" / "set") == members
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["set"]


def test_tar_lands_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        folder = tarfile.TarInfo("top")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name in ("top/a.txt", "b.txt"):
            info = tarfile.TarInfo(name)
            info.size = len(name)
            archive.addfile(info, io.BytesIO(name.encode()))
    assert unpack(path, Unpack("tar", limit=100), tmp_path / "set") == ["b.txt", "top"]
    assert tree(tmp_path / "set") == {"top/a.txt": b"top/a.txt", "b.txt": b"b.txt"}


@pytest.mark.parametrize(
    "name",
    ["../evil", "top/../../evil", "/evil", "C:/evil", "top\\..\\evil", "C:evil", "", "."],
)
def test_paths_that_leave_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DamagedArchive, match="does not stay inside"):
        safe_path(name, tmp_path / "a.zip")


@pytest.mark.parametrize("name", ["../evil", "/tmp/fedprivacy-evil", "top/../../evil"])
def test_one_bad_path_refuses_the_whole_zip(name: str, tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"good": b"1", name: b"2"})
    with pytest.raises(DamagedArchive, match="does not stay inside"):
        unpack(archive, ZIP, tmp_path / "set")
    assert_nothing_written(tmp_path, archive)


def test_zip_symlink_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc")
        archive.writestr("link/passwd", "x")
    with pytest.raises(DamagedArchive, match="'link' is a link"):
        unpack(path, ZIP, tmp_path / "set")
    assert_nothing_written(tmp_path, path)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_tar_links_and_devices_are_refused(kind: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("odd")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(DamagedArchive, match="link or a device"):
        unpack(path, Unpack("tar", limit=100), tmp_path / "set")
    assert_nothing_written(tmp_path, path)


def test_bomb_is_refused_by_what_it_claims(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"a": b"0" * 6000, "b": b"0" * 6000})
    with pytest.raises(DamagedArchive, match="would unpack to more than"):
        unpack(archive, ZIP, tmp_path / "set")
    assert_nothing_written(tmp_path, archive)
    assert unpack(archive, Unpack("zip", limit=12_000), tmp_path / "set") == ["a", "b"]


@pytest.mark.parametrize("claim", [100, 60_000])
def test_member_that_lies_about_its_size_is_refused(claim: int, tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"a": b"0" * 50_000})
    honest = (50_000).to_bytes(4, "little")
    data = archive.read_bytes()
    assert data.count(honest) == 2  # the local header and the central directory
    archive.write_bytes(data.replace(honest, claim.to_bytes(4, "little")))
    with pytest.raises(DamagedArchive, match="damaged"):
        unpack(archive, Unpack("zip", limit=100_000), tmp_path / "set")
    assert_nothing_written(tmp_path, archive)


def _truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flip(data: bytes) -> bytes:
    middle = data.index(b"payload") + 3
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def _encrypt(data: bytes) -> bytes:
    at = data.index(b"PK\x01\x02") + 8
    return data[:at] + b"\x01" + data[at + 1 :]


@pytest.mark.parametrize("damage", [_truncate, _flip, _encrypt, lambda data: b"<html>"])
def test_damaged_zip_is_one_clear_error(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:  # stored, so that a flipped bit meets the CRC
        archive.writestr("a", b"payload" * 100)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedArchive, match="damaged or not a zip"):
        unpack(path, ZIP, tmp_path / "set")
    assert_nothing_written(tmp_path, path)


def test_repeated_member_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"1")
        archive.writestr("./a", b"2")
    with pytest.raises(DamagedArchive, match="repeats another"):
        unpack(path, ZIP, tmp_path / "set")


def test_empty_archive_and_missing_member(tmp_path: Path) -> None:
    with pytest.raises(DamagedArchive, match="holds no file"):
        unpack(make_zip(tmp_path / "a.zip", {}), ZIP, tmp_path / "set")
    rule = Unpack("zip", limit=100, only="wanted.csv")
    with pytest.raises(DamagedArchive, match=r"holds no wanted\.csv"):
        unpack(make_zip(tmp_path / "b.zip", {"x": b"1"}), rule, tmp_path / "set")


def test_only_one_member_is_taken_and_inspected(tmp_path: Path) -> None:
    members = {"deep/wanted.csv": b"rows", "huge": b"0" * 9000}
    archive = make_zip(tmp_path / "a.zip", members)
    rule = Unpack("zip", limit=100, only="wanted.csv")
    seen = []
    names = unpack(archive, rule, tmp_path / "set", lambda folder: seen.append(tree(folder)))
    assert names == ["wanted.csv"]
    assert seen == [{"wanted.csv": b"rows"}] == [tree(tmp_path / "set")]


def test_inspection_can_refuse(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"a": b"1"})

    def refuse(folder: Path) -> None:
        raise DataError("not what was promised")

    with pytest.raises(DataError, match="promised"):
        unpack(archive, ZIP, tmp_path / "set", refuse)
    assert_nothing_written(tmp_path, archive)


def test_merge_keeps_what_is_there_and_never_replaces(tmp_path: Path) -> None:
    target = tmp_path / "set"
    unpack(make_zip(tmp_path / "a.zip", {"top/a": b"1", "top/b": b"2"}), ZIP, target)
    (target / "mine.txt").write_bytes(b"note")
    second = make_zip(tmp_path / "b.zip", {"top/a": b"1", "top/c": b"3"})
    assert unpack(second, ZIP, target) == ["top"]
    whole = {"top/a": b"1", "top/b": b"2", "top/c": b"3", "mine.txt": b"note"}
    assert tree(target) == whole
    third = make_zip(tmp_path / "c.zip", {"top/b": b"other", "top/d": b"4"})
    with pytest.raises(DataError, match=r"replace 1 files.*top/b"):
        unpack(third, ZIP, target)
    assert tree(target) == whole


def test_target_may_be_a_link_to_another_disk(tmp_path: Path) -> None:
    """Staged beside what the link points to: a rename cannot cross disks."""
    (tmp_path / "disk" / "space").mkdir(parents=True)
    (tmp_path / "set").symlink_to(tmp_path / "disk" / "space")
    staged = []
    archive = make_zip(tmp_path / "a.zip", {"a": b"1"})
    unpack(archive, ZIP, tmp_path / "set", lambda folder: staged.append(folder.parent))
    assert staged == [tmp_path / "disk"]
    assert tree(tmp_path / "disk" / "space") == {"a": b"1"}

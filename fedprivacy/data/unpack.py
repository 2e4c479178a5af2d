"""Archives taken apart without trusting them."""

from __future__ import annotations

import filecmp
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from fedprivacy.data.sources import Unpack
from fedprivacy.errors import DataError

CHUNK = 1 << 20
MAX_ENTRIES = 500_000
DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    EOFError,
    NotImplementedError,  # a compression method that zipfile does not know
    RuntimeError,  # zipfile: an encrypted member
)


class DamagedArchive(DataError):
    """The archive itself is at fault: broken, hostile, or not what it should hold."""


@dataclass(frozen=True)
class _Entry:
    """One member: ``plain`` is False for anything but a regular file or a folder."""

    name: str
    size: int
    folder: bool
    plain: bool
    open: Callable[[], IO[bytes]]


def unpack(
    archive: Path, rule: Unpack, target: Path, inspect: Callable[[Path], None] = lambda folder: None
) -> list[str]:
    """Unpack ``archive`` into ``target`` and return the names that it put there.

    Members go to a temporary folder beside ``target`` first and are moved only when all of them
    are sound; modes, owners and times in the archive are ignored.

    Args:
        archive: the file.
        rule: how; ``rule.limit`` bounds the bytes written, whatever the archive claims.
        target: folder that the files end in; what is there already stays.
        inspect: called on the temporary folder before anything is moved; may raise.

    Raises:
        DamagedArchive: damaged archive; a member with an absolute path, with ``..``, that is a
            link or a device, or that repeats another; more bytes than ``rule.limit``.
        DataError: a member that differs from a file already in ``target``; too little disk.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    target = target.resolve()  # a link to another disk: the moves below must stay on one
    staging = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        with _entries(archive, rule.kind) as entries:
            for entry, path in _admit(archive, entries, rule, staging):
                _write(entry, staging / path, archive)
        inspect(staging)
        clashes = sorted(_clashes(staging, target))
        if clashes:
            raise DataError(
                f"{archive.name} would replace {len(clashes)} files that differ, the first "
                f"{clashes[0]}: move {target} away and run the command again"
            )
        names = sorted(child.name for child in staging.iterdir())
        target.mkdir(exist_ok=True)
        _merge(staging, target)
    except DAMAGED as error:
        raise DamagedArchive(f"{archive} is damaged or not a {rule.kind} file: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return names


@contextmanager
def _entries(archive: Path, kind: str) -> Iterator[Iterator[_Entry]]:
    """Members of a zip or tar file, in its order."""
    if kind == "zip":
        with zipfile.ZipFile(archive) as opened:
            yield (_zip_entry(opened, info) for info in opened.infolist())
    else:
        with tarfile.open(archive) as opened_tar:
            yield (_tar_entry(opened_tar, member) for member in opened_tar)


def _zip_entry(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Entry:
    kind = stat.S_IFMT(info.external_attr >> 16)
    plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)  # 0: written on a system without modes
    return _Entry(info.filename, info.file_size, info.is_dir(), plain, partial(opened.open, info))


def _tar_entry(opened: tarfile.TarFile, member: tarfile.TarInfo) -> _Entry:
    def read() -> IO[bytes]:
        handle = opened.extractfile(member)
        if handle is None:
            raise tarfile.ReadError(f"no content in {member.name}")
        return handle

    return _Entry(member.name, member.size, member.isdir(), member.isreg() or member.isdir(), read)


def _admit(
    archive: Path, entries: Iterator[_Entry], rule: Unpack, staging: Path
) -> list[tuple[_Entry, PurePosixPath]]:
    """Every file that will be written and where, refused before the first byte is."""
    admitted: list[tuple[_Entry, PurePosixPath]] = []
    claimed = 0
    for count, entry in enumerate(entries, start=1):
        path = safe_path(entry.name, archive)
        if not entry.plain:
            raise DamagedArchive(f"{archive}: {entry.name!r} is a link or a device, refused")
        wanted = not entry.folder and rule.only in (None, path.name)
        claimed += entry.size if wanted else 0
        if claimed > rule.limit or count > MAX_ENTRIES:
            raise DamagedArchive(
                f"{archive} would unpack to more than {rule.limit / 1e9:.2f} GB or "
                f"{MAX_ENTRIES} files, far beyond what its owner describes: refused"
            )
        if wanted:
            admitted.append((entry, path if rule.only is None else PurePosixPath(path.name)))
    if not admitted:
        raise DamagedArchive(f"{archive} holds no {rule.only or 'file'}")
    free = shutil.disk_usage(staging).free
    if claimed > free:
        raise DataError(
            f"{archive} unpacks to {claimed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free: free "
            "some space, or choose a dataset.root (--root) on another disk"
        )
    return admitted


def safe_path(name: str, archive: Path) -> PurePosixPath:
    """The relative path that a member's name stands for.

    Raises:
        DamagedArchive: absolute, with a drive, a backslash or a NUL, or with ``..``.
    """
    path = PurePosixPath(name)
    bad = not path.parts or path.is_absolute() or ".." in path.parts
    if bad or re.search(r"\\|\x00|^[A-Za-z]:", name):
        raise DamagedArchive(f"{archive}: member {name!r} does not stay inside its folder, refused")
    return path


def _write(entry: _Entry, path: Path, archive: Path) -> None:
    """One member to disk, never over another. The readers stop at the size it claims."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with entry.open() as source, open(path, "xb") as sink:
            shutil.copyfileobj(source, sink, CHUNK)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise DamagedArchive(
            f"{archive}: member {entry.name!r} repeats another, refused"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}") from error
    size = path.stat().st_size
    if size != entry.size:
        raise DamagedArchive(
            f"{archive} is damaged: {entry.name!r} has {size} bytes and claims {entry.size}"
        )


def _clashes(source: Path, target: Path) -> Iterator[Path]:
    """Paths in ``target`` that a merge would have to replace by something else."""
    for child in source.iterdir():
        there = target / child.name
        if child.is_dir() and there.is_dir():
            yield from _clashes(child, there)
        elif there.exists() or there.is_symlink():
            same = child.is_file() and there.is_file()
            if not (same and filecmp.cmp(child, there, shallow=False)):
                yield there


def _merge(source: Path, target: Path) -> None:
    """Move ``source`` into ``target``: whole folders at once where they are new."""
    for child in source.iterdir():
        there = target / child.name
        if child.is_dir() and there.is_dir():
            _merge(child, there)
        elif not there.exists():
            child.replace(there)

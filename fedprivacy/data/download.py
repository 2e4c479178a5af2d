"""Downloads of a dataset's real files: mirrors, checksums, unpacking, and a receipt for each.

Under ``root``: ``downloads/<dataset>/`` holds partial files, archives and receipts;
``real/<dataset>/`` gets the files themselves, only once they are complete and sound.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedprivacy.data.checksums import file_digest, problem_of
from fedprivacy.data.files import locked, write_atomic
from fedprivacy.data.sources import Archive, Checks, Source
from fedprivacy.data.transfer import MirrorError, Network, forget, origin_url, transfer
from fedprivacy.data.unpack import DamagedArchive, unpack
from fedprivacy.errors import DataError

Say = Callable[[str], None]


def real_folder(root: Path, dataset: str) -> Path:
    """Where the owner's files of ``dataset`` belong."""
    return root / "real" / dataset


def obtain(
    source: Source, root: Path, network: Network | None = None, say: Say = lambda line: None
) -> None:
    """Download and unpack everything that ``source`` lists, unless it is there already.

    An archive that cannot be had is replaced by the next that provides the same. What was
    downloaded before an interruption is continued.

    Args:
        source: what to fetch; its licence must have been accepted by the caller.
        root: ``dataset.root``.
        network: patience of the transfers.
        say: receives one line per step.

    Raises:
        DataError: no archive of some part could be had; the message lists every attempt. Or a
            file of that name is in the way that is not the published one.
    """
    network = network or Network()
    store = root / "downloads" / source.dataset
    target = real_folder(root, source.dataset)
    store.mkdir(parents=True, exist_ok=True)
    with locked(store / ".lock"):
        for provides, alternatives in source.parts.items():
            done = [archive for archive in alternatives if _present(archive, store, target)]
            if done:
                say(f"{done[0].filename}: already in {target}")
                continue
            failures = []
            for archive in alternatives:
                try:
                    _obtain_archive(archive, store, target, network, say)
                    break
                except DataError as error:
                    failures.append(str(error))
                    say(f"{archive.filename}: {error}")
            else:
                tried = "\n  ".join(failures)
                raise DataError(
                    f"{source.dataset}: no source of its {provides} worked. The same command "
                    f"continues where this one stopped.\n  {tried}"
                )


def fetch_archive(archive: Archive, store: Path, network: Network) -> tuple[Path, str | None]:
    """The archive's file in ``store``, complete and verified, and the mirror it came from.

    Mirrors are tried in order, beginning with the one that a partial file came from. A file that
    fails its checks is deleted and the next mirror tried; if it had been continued from a partial
    file, the same mirror is first asked for all of it.

    Returns:
        The path, and the mirror's address (None if the file was there already).

    Raises:
        DataError: no mirror gave a sound file.
    """
    path = store / archive.filename
    part = path.with_name(path.name + ".part")
    checks = _checks(archive, store)
    if path.exists():
        if problem_of(path, checks) is None:
            return path, None
        path.unlink()
    started = origin_url(part)
    reasons = []
    for url in sorted(archive.urls, key=lambda url: url != started):
        try:
            _fetch_from(url, part, checks, network)
            os.replace(part, path)
            forget(part)
            return path, url
        except MirrorError as error:
            reasons.append(f"{url}: {error}")
    raise DataError(f"{archive.filename} could not be downloaded:\n    " + "\n    ".join(reasons))


def _fetch_from(url: str, part: Path, checks: Checks, network: Network) -> None:
    """Fill ``part`` from one mirror and verify it; on failure it is gone."""
    continued = part.exists()
    transfer(url, part, checks.size, checks.pinned, network)
    problem = problem_of(part, checks)
    if problem and continued:
        forget(part)
        transfer(url, part, checks.size, checks.pinned, network)
        problem = problem_of(part, checks)
    if problem:
        forget(part)
        raise MirrorError(problem.replace(part.name, part.name.removesuffix(".part")))


def _obtain_archive(
    archive: Archive, store: Path, target: Path, network: Network, say: Say
) -> None:
    """Fetch, verify, unpack, write the receipt, and drop the archive."""
    say(f"{archive.filename}: downloading" + (f" ({archive.note})" if archive.note else ""))
    path, url = fetch_archive(archive, store, network)
    keep = archive.unpack.kind == "keep"
    receipt = {
        "file": archive.filename,
        "url": url,
        "size": path.stat().st_size,
        "sha256": archive.checks.sha256 or file_digest(path, "sha256"),
        "published_checksum": archive.checks.pinned,
        "names": [archive.filename] if keep else _unpack(archive, path, target),
    }
    write_atomic(_receipt_path(archive, store), json.dumps(receipt, indent=2) + "\n")
    # After the receipt: a crash before this line finds the verified file in the store again.
    if keep:
        target.mkdir(parents=True, exist_ok=True)
        os.replace(path, target / archive.filename)
    else:
        path.unlink()
    if not (archive.checks.pinned or archive.unpack.checks.pinned):
        say(
            f"warning: the owner of {archive.filename} publishes no checksum. Recorded sha256 "
            f"{receipt['sha256']} in {_receipt_path(archive, store)}; later downloads are held "
            "to it"
        )
    say(f"{archive.filename}: in {target}")


def _unpack(archive: Archive, path: Path, target: Path) -> list[str]:
    """Unpack the verified archive; returns the names it has in ``target``."""
    rule = archive.unpack

    def inspect(folder: Path) -> None:
        problem = problem_of(folder / rule.only, rule.checks) if rule.only else None
        if problem:
            raise DamagedArchive(f"{archive.filename}: {problem}")

    try:
        return unpack(path, rule, target, inspect)
    except DamagedArchive:
        path.unlink()  # keeping it would only meet the same damage again
        raise


def _present(archive: Archive, store: Path, target: Path) -> bool:
    """Whether the archive's files are in ``target``, by an earlier run or by the user's hand.

    Raises:
        DataError: a file of that name is there and is not the published one.
    """
    if archive.unpack.kind == "keep":
        path = target / archive.filename
        problem = problem_of(path, archive.checks) if path.exists() else None
        if problem:
            raise DataError(f"{path} is not the published file ({problem}): move it away")
        return path.exists()
    names = _read_receipt(archive, store).get("names") or []
    return bool(names) and all((target / str(name)).exists() for name in names)


def _receipt_path(archive: Archive, store: Path) -> Path:
    return store / f"{archive.filename}.receipt.json"


def _read_receipt(archive: Archive, store: Path) -> dict[str, Any]:
    try:
        receipt = json.loads(_receipt_path(archive, store).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return receipt if isinstance(receipt, dict) else {}


def _checks(archive: Archive, store: Path) -> Checks:
    """Published checks, or where there are none what the first download recorded."""
    receipt = _read_receipt(archive, store)
    if archive.checks.pinned or "sha256" not in receipt:
        return archive.checks
    return Checks(size=receipt.get("size"), sha256=receipt["sha256"])

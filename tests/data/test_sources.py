"""The registry of downloads says what the design page pins, and nothing malformed."""

from __future__ import annotations

import re
from urllib.parse import urlparse

import pytest

from fedprivacy.data.registry import dataset_names
from fedprivacy.data.sources import SOURCES, Archive

ARCHIVES = [archive for source in SOURCES.values() for archive in source.archives]


def test_every_dataset_has_its_terms() -> None:
    assert set(SOURCES) == set(dataset_names())
    for name, source in SOURCES.items():
        assert source.dataset == name
        assert source.licence.url.startswith("https://")
        assert source.licence.name.startswith("CC BY")
        assert source.citation
        assert source.archives or source.manual


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda archive: archive.filename)
def test_archives_are_well_formed(archive: Archive) -> None:
    assert SOURCES[archive.dataset].archives.count(archive) == 1
    assert archive.urls
    for url in archive.urls:
        assert urlparse(url).scheme in ("http", "https")
        # Plain http is no risk only where a digest vouches for the bytes.
        assert url.startswith("https://") or archive.checks.sha256
    for checks in (archive.checks, archive.unpack.checks):
        assert checks.md5 is None or re.fullmatch("[0-9a-f]{32}", checks.md5)
        assert checks.sha256 is None or re.fullmatch("[0-9a-f]{64}", checks.sha256)
    assert (archive.unpack.limit > 0) == (archive.unpack.kind != "keep")


def test_file_names_are_unique_per_dataset() -> None:
    names = [(archive.dataset, archive.filename) for archive in ARCHIVES]
    assert len(set(names)) == len(names)


def test_alternatives_keep_their_order() -> None:
    parts = {name: SOURCES[name].parts for name in SOURCES}
    names = {
        name: {what: [archive.filename for archive in found] for what, found in part.items()}
        for name, part in parts.items()
    }
    assert names == {
        "wisconsin": {},
        "higgs": {"records": ["HIGGS.csv.gz", "higgs.zip"]},
        "ixi_tiny": {"records": ["7kd5wj7v7p-3.zip", "ixi_tiny.zip"]},
        "breast_density": {"images": ["preprocessed.zip"], "datalists": ["dataset_lists.zip"]},
    }


def test_sizes_shown_are_the_owners() -> None:
    assert SOURCES["higgs"].download_bytes == 2_816_407_858
    assert SOURCES["ixi_tiny"].download_bytes == 444_000_000
    assert SOURCES["breast_density"].download_bytes is None


def test_higgs_is_the_same_file_by_both_ways() -> None:
    plain, zipped = SOURCES["higgs"].archives
    assert zipped.unpack.only == plain.filename
    assert zipped.unpack.checks == plain.checks
    assert plain.checks.pinned
    assert zipped.unpack.limit >= (plain.checks.size or 0)

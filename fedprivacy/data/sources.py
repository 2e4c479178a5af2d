"""What can be downloaded: each archive with its mirrors, size, checksum, licence and unpacking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MIB, GIB = 1 << 20, 1 << 30


@dataclass(frozen=True)
class Licence:
    """Terms that the user accepts before anything is downloaded.

    Attributes:
        name: short name.
        url: the full text.
        summary: what it asks, in words.
    """

    name: str
    url: str
    summary: str


@dataclass(frozen=True)
class Checks:
    """What a sound file looks like; None where the owner publishes nothing.

    Attributes:
        size: exact bytes.
        md5: hex digest.
        sha256: hex digest.
    """

    size: int | None = None
    md5: str | None = None
    sha256: str | None = None

    @property
    def pinned(self) -> bool:
        """Whether a published digest vouches for the content."""
        return self.md5 is not None or self.sha256 is not None


@dataclass(frozen=True)
class Unpack:
    """How an archive becomes files of the dataset.

    Attributes:
        kind: ``keep`` (the download is the file), ``zip`` or ``tar``.
        limit: refuse to write more bytes than this, whatever the archive claims.
        only: take only the member of this base name; None takes everything.
        checks: of that one member.
    """

    kind: Literal["keep", "zip", "tar"]
    limit: int = 0
    only: str | None = None
    checks: Checks = Checks()


@dataclass(frozen=True)
class Archive:
    """One downloadable file.

    Attributes:
        dataset: whose it is.
        provides: what it brings; archives of a dataset that provide the same are alternatives,
            tried in order.
        filename: its name on disk.
        urls: mirrors of the same bytes, tried in order.
        checks: of the downloaded file.
        about_bytes: size as the owner states it, where ``checks.size`` is unknown; for display.
        unpack: what to do with it.
        note: what the user should know about this copy.
    """

    dataset: str
    provides: str
    filename: str
    urls: tuple[str, ...]
    checks: Checks
    unpack: Unpack
    about_bytes: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Source:
    """The real records of one dataset: terms, citation, archives, and what no command can fetch.

    Attributes:
        dataset: its name.
        licence: terms of use.
        citation: what to cite.
        archives: what ``fedprivacy data download`` fetches; empty where nothing is needed.
        manual: further steps that need the user's own login, or where the records already are.
    """

    dataset: str
    licence: Licence
    citation: str
    archives: tuple[Archive, ...] = ()
    manual: str = ""

    @property
    def parts(self) -> dict[str, tuple[Archive, ...]]:
        """Archives by what they provide, alternatives in order."""
        names = dict.fromkeys(archive.provides for archive in self.archives)
        return {
            name: tuple(archive for archive in self.archives if archive.provides == name)
            for name in names
        }

    @property
    def download_bytes(self) -> int | None:
        """Bytes of the first alternative of every part; None where no owner states them."""
        first = [alternatives[0] for alternatives in self.parts.values()]
        sizes = [archive.checks.size or archive.about_bytes for archive in first]
        return None if None in sizes else sum(size for size in sizes if size is not None)


CC_BY_4 = "https://creativecommons.org/licenses/by/4.0/"

WISCONSIN = Source(
    dataset="wisconsin",
    licence=Licence("CC BY 4.0", CC_BY_4, "Use and share with attribution."),
    citation=(
        "W. Wolberg, O. Mangasarian, N. Street, W. Street, Breast Cancer Wisconsin (Diagnostic), "
        "UCI Machine Learning Repository, 1993, doi:10.24432/C5DW2B"
    ),
    manual="wisconsin ships with scikit-learn: its real records are on this machine already.",
)

# UCI publishes no digest: size and sha256 are those found independently in seven public
# repositories that pin this file.
HIGGS_CHECKS = Checks(
    size=2_816_407_858,
    sha256="ea302c18164d4e3d916a1e2e83a9a8d07069fa6ebc7771e4c0540d54e593b698",
)
HIGGS = Source(
    dataset="higgs",
    licence=Licence("CC BY 4.0", CC_BY_4, "Use and share with attribution."),
    citation=(
        "D. Whiteson, HIGGS, UCI Machine Learning Repository, 2014, doi:10.24432/C5V312; "
        "P. Baldi, P. Sadowski, D. Whiteson, Nature Communications 5, 4308 (2014)"
    ),
    archives=(
        Archive(
            dataset="higgs",
            provides="records",
            filename="HIGGS.csv.gz",
            urls=(
                "https://archive.ics.uci.edu/ml/machine-learning-databases/00280/HIGGS.csv.gz",
                "http://mlphysics.ics.uci.edu/data/higgs/HIGGS.csv.gz",
            ),
            checks=HIGGS_CHECKS,
            unpack=Unpack("keep"),
        ),
        Archive(
            dataset="higgs",
            provides="records",
            filename="higgs.zip",
            urls=("https://archive.ics.uci.edu/static/public/280/higgs.zip",),
            checks=Checks(),
            unpack=Unpack("zip", limit=3 * GIB, only="HIGGS.csv.gz", checks=HIGGS_CHECKS),
            note="a zip around the same HIGGS.csv.gz; its server may not resume",
        ),
    ),
)

IXI_TINY = Source(
    dataset="ixi_tiny",
    licence=Licence(
        "CC BY-SA 3.0",
        "https://creativecommons.org/licenses/by-sa/3.0/legalcode",
        "Use and share with attribution; share derived data under the same terms.",
    ),
    citation=(
        "IXI dataset, https://brain-development.org/ixi-dataset/ (EPSRC GR/S21533/02); "
        "F. Perez-Garcia, R. Sparks, S. Ourselin, TorchIO, Computer Methods and Programs in "
        "Biomedicine 208 (2021) 106236"
    ),
    archives=(
        Archive(
            dataset="ixi_tiny",
            provides="records",
            filename="7kd5wj7v7p-3.zip",
            urls=(
                "https://prod-dcd-datasets-cache-zipfiles.s3.eu-west-1.amazonaws.com/7kd5wj7v7p-3.zip",
                "https://data.mendeley.com/public-api/zip/7kd5wj7v7p/download/3",
            ),
            checks=Checks(md5="eecb83422a2685937a955251fa45cb03"),
            unpack=Unpack("zip", limit=4 * GIB),
            about_bytes=444_000_000,
            note="the copy that FLamby uses (https://data.mendeley.com/datasets/7kd5wj7v7p)",
        ),
        Archive(
            dataset="ixi_tiny",
            provides="records",
            filename="ixi_tiny.zip",
            urls=("https://www.dropbox.com/s/ogxjwjxdv5mieah/ixi_tiny.zip?dl=1",),
            checks=Checks(md5="bfb60f4074283d78622760230bfa1f98"),
            unpack=Unpack("zip", limit=4 * GIB),
            note="TorchIO's copy of the same 566 subjects, in a flat layout",
        ),
    ),
)

BREAST_DENSITY = Source(
    dataset="breast_density",
    licence=Licence(
        "CC BY 3.0",
        "https://creativecommons.org/licenses/by/3.0/",
        "Use and share with attribution (CBIS-DDSM, The Cancer Imaging Archive).",
    ),
    citation=(
        "R. Sawyer Lee et al., CBIS-DDSM, The Cancer Imaging Archive, 2016, "
        "doi:10.7937/K9/TCIA.2016.7O02S9CY; R. S. Lee et al., Scientific Data 4, 170177 (2017); "
        "example data of the ACR-NVIDIA-NCI breast density challenge (MICCAI 2022)"
    ),
    archives=(
        Archive(
            dataset="breast_density",
            provides="images",
            filename="preprocessed.zip",
            urls=(
                "https://developer.download.nvidia.com/assets/Clara/monai/tutorials/fl/preprocessed.zip",
            ),
            checks=Checks(),
            unpack=Unpack("zip", limit=8 * GIB),
        ),
        Archive(
            dataset="breast_density",
            provides="datalists",
            filename="dataset_lists.zip",
            urls=(
                "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/dataset_lists.zip",
            ),
            checks=Checks(),
            unpack=Unpack("zip", limit=200 * MIB),
        ),
    ),
    manual=(
        "The RSNA 2022 layout (dataset.layout=rsna) needs your own Kaggle login: accept the rules "
        "at https://www.kaggle.com/competitions/rsna-breast-cancer-detection (non-commercial "
        "research), get train.csv there with `kaggle competitions download -c "
        "rsna-breast-cancer-detection -f train.csv`, and the images as png with `kaggle datasets "
        "download theoviel/rsna-breast-cancer-256-pngs`. Put train.csv and the "
        "<patient_id>_<image_id>.png files into {folder}."
    ),
)

SOURCES = {source.dataset: source for source in (WISCONSIN, HIGGS, IXI_TINY, BREAST_DENSITY)}

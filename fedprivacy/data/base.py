"""What a federated dataset is: sites with their own training and held-out records."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fedprivacy.config.schema import DatasetConf

Task = Literal["binary", "multiclass", "segmentation"]


@dataclass(frozen=True)
class SiteData:
    """Records of one site, split by patient.

    Attributes:
        name: the site, for example ``Guys``.
        train_x: ``(n, *input_shape)`` float32.
        train_y: ``(n,)`` int64 class labels, or ``(n, *spatial)`` int64 masks for segmentation.
        test_x: ``(m, *input_shape)`` float32, held out.
        test_y: like ``train_y``.
        train_patients: ``(n,)`` patient of each training record; never one of ``test_patients``
            of any site.
        test_patients: ``(m,)`` patient of each held-out record.
    """

    name: str
    train_x: torch.Tensor
    train_y: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor
    train_patients: NDArray[np.str_]
    test_patients: NDArray[np.str_]


@dataclass(frozen=True)
class FederatedData:
    """A dataset divided over sites, ready to train on.

    Attributes:
        name: the dataset's name, as in ``conf/dataset``.
        task: what a model predicts.
        n_classes: number of classes (2 for binary and for brain/background masks).
        input_shape: shape of one record without the batch axis, channels first.
        metric: name of the score, one of ``fedprivacy.metrics.METRICS``.
        sites: at least one site, in a fixed order.
        synthetic: whether the records are made up. Every result carries it.
        fingerprint: hex digest that changes when the records change.
        assumptions: what is taken as public about these data, in words (for example that
            features are scaled by published constants).
    """

    name: str
    task: Task
    n_classes: int
    input_shape: tuple[int, ...]
    metric: str
    sites: tuple[SiteData, ...]
    synthetic: bool
    fingerprint: str
    assumptions: tuple[str, ...] = ()

    @cached_property
    def records_per_patient(self) -> int:
        """Most training records that one patient has at a site; counted once."""
        names = (site.train_patients for site in self.sites)
        return max(int(np.unique(each, return_counts=True)[1].max()) for each in names)


class Dataset(Protocol):
    """One dataset: where its files are, how they are made or read, how they split over sites.

    Implementations are stateless modules' objects registered in ``fedprivacy.data.registry``.
    """

    name: str

    def prepare(self, conf: DatasetConf) -> None:
        """Make sure the files are on disk.

        Synthetic: generates them if missing (atomically, safe against a second process).
        Real: checks that they are there.

        Raises:
            DataError: real files are missing; the message names the download command.
        """
        ...

    def fingerprint(self, conf: DatasetConf) -> str:
        """Hex digest of the records that ``load`` would return; cheap, needs ``prepare`` first."""
        ...

    def load(self, conf: DatasetConf) -> FederatedData:
        """Read the files and split them over sites; deterministic in ``conf``."""
        ...

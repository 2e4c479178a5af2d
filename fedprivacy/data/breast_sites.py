"""Which site each image belongs to: whole patients, by the owner's key or by a partition."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedprivacy.config.schema import BreastDensityConf
from fedprivacy.data.breast_layouts import ImageTable, leaks, natural_key
from fedprivacy.data.partitions import partition_rows
from fedprivacy.errors import ConfigError, DataError

_PATIENT_SIDES = 2  # a site needs a patient to train on and one to test on


def assign_sites(
    table: ImageTable, conf: BreastDensityConf
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Names of the sites, and the site of each image; all images of a patient go to one site.

    ``natural``: datalists keep the owner's sites. RSNA has machines instead (its ``site_id``
    cannot serve: nearly every density is missing at site 2): a patient belongs to the machine
    that took most of her images, the ``n_sites - 1`` machines with the most images are a site
    each, and all others together are the last one. Other partitions divide the patients;
    ``dirichlet`` by the grade that most of a patient's images have.

    Returns:
        site names, and ``(n,)`` int64 positions in them.

    Raises:
        ConfigError: a partition that these data do not admit.
        DataError: the owner's lists put one patient in two places.
    """
    patients, patient_of = np.unique(table.patients, return_inverse=True)
    patient_of = patient_of.reshape(-1)
    if table.layout == "datalist":
        found = list(leaks(table))
        if found:
            raise DataError(f"{len(found)} patients are in two places of the lists: {found[0]}")
    if conf.partition != "natural":
        parts = partition_rows(
            len(patients),
            majority(patient_of, table.labels),
            conf.partition,
            conf.n_sites,
            conf.dirichlet_alpha,
            conf.split_seed,
            min_rows=_PATIENT_SIDES,
        )
        site_of_patient = np.empty(len(patients), dtype=np.int64)
        for number, rows in enumerate(parts):
            site_of_patient[rows] = number
        names = tuple(f"site-{number}" for number in range(1, len(parts) + 1))
        return names, site_of_patient[patient_of]
    groups = np.array(sorted(set(table.groups.tolist()), key=natural_key))
    position = {str(group): number for number, group in enumerate(groups)}
    group_of = np.array([position[str(group)] for group in table.groups], dtype=np.int64)
    if table.layout == "datalist":
        return tuple(str(group) for group in groups), group_of
    return _largest_machines(groups, majority(patient_of, group_of)[patient_of], conf.n_sites)


def majority(patient_of: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The most frequent value of each patient's images, the smallest of equally frequent ones.

    Args:
        patient_of: ``(n,)`` patient of each image, 0 to the number of patients less 1.
        values: ``(n,)`` small non-negative integers.
    """
    counts = np.zeros((patient_of.max() + 1, values.max() + 1), dtype=np.int64)
    np.add.at(counts, (patient_of, values), 1)
    return np.asarray(counts.argmax(axis=1), dtype=np.int64)


def _largest_machines(
    machines: NDArray[np.str_], machine_of: NDArray[np.int64], n_sites: int
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The ``n_sites - 1`` machines with most images, most first; the rest is the last site."""
    counts = np.bincount(machine_of, minlength=len(machines))
    used = int(np.count_nonzero(counts))
    if not 1 <= n_sites <= used:
        raise ConfigError(
            "dataset.n_sites",
            n_sites,
            f"from 1 to the {used} machines that the natural partition divides by",
            f"dataset.n_sites={min(max(1, n_sites), used)}, or dataset.partition=uniform",
        )
    order = np.argsort(-counts, kind="stable")
    site_of_machine = np.full(len(machines), n_sites - 1, dtype=np.int64)
    site_of_machine[order[: n_sites - 1]] = np.arange(n_sites - 1)
    names = [str(machines[machine]) for machine in order[: n_sites - 1]]
    rest = str(machines[order[n_sites - 1]]) if n_sites == used else "other-machines"
    return (*names, rest), site_of_machine[machine_of]

"""Which patients are held out, and how many records each patient may contribute."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from fedprivacy.errors import ConfigError, DataError


def split_patients(
    patients: NDArray[np.str_], test_fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Mark the records whose patient is held out.

    A patient is held out when a hash of (seed, patient) falls below ``test_fraction``. The
    choice therefore depends on no other patient: it is the same under any order of the records,
    for a site alone or for all sites together, and adding or removing one patient moves nobody
    else (a rank-based split would move one, and double the sensitivity of everything after it).
    The share is met in expectation. Only where a side would be empty does the patient nearest
    the threshold change sides.

    Args:
        patients: ``(n,)`` patient of each record.
        test_fraction: expected share of patients held out, in [0, 1); 0 holds out nobody.
        seed: seeds the hash.

    Returns:
        ``(n,)`` True where the record is held out.

    Raises:
        ConfigError: ``test_fraction`` outside [0, 1).
        DataError: fewer than two patients, so that no split exists.
    """
    if not 0.0 <= test_fraction < 1.0:
        fix = "dataset.test_fraction=0.2"
        raise ConfigError("dataset.test_fraction", test_fraction, "a number in [0, 1)", fix)
    names, positions = np.unique(np.asarray(patients), return_inverse=True)
    if test_fraction == 0.0:
        return np.zeros(len(positions), dtype=np.bool_)
    if len(names) < 2:
        raise DataError(
            f"a held-out split needs at least two patients, and there are {len(names)}: "
            "use fewer sites (dataset.n_sites) or more records"
        )
    scores = np.array([_uniform(seed, str(name)) for name in names])
    held_out = scores < test_fraction
    if not held_out.any():
        held_out[np.argmin(scores)] = True
    elif held_out.all():
        held_out[np.argmax(scores)] = False
    return np.asarray(held_out[positions.reshape(-1)], dtype=np.bool_)


def cap_records(patients: NDArray[np.str_], limit: int | None) -> NDArray[np.int64]:
    """Rows to keep so that no patient has more than ``limit`` records: the first ones, in order.

    Args:
        patients: ``(n,)`` patient of each record.
        limit: at least 1; None keeps everything.

    Raises:
        ConfigError: ``limit`` below 1.
    """
    rows = np.arange(len(patients), dtype=np.int64)
    if limit is None:
        return rows
    if limit < 1:
        raise ConfigError(
            "dataset.max_records_per_patient",
            limit,
            "a whole number of at least 1, or null",
            "dataset.max_records_per_patient=null",
        )
    if not len(rows):
        return rows
    _, groups = np.unique(np.asarray(patients), return_inverse=True)
    order = np.argsort(groups.reshape(-1), kind="stable")
    sorted_groups = groups.reshape(-1)[order]
    is_start = np.r_[True, sorted_groups[1:] != sorted_groups[:-1]]
    starts = np.maximum.accumulate(np.where(is_start, rows, 0))
    return np.sort(order[rows - starts < limit]).astype(np.int64)


def _uniform(seed: int, patient: str) -> float:
    """Hash of (seed, patient) as a number in [0, 1), the same on every machine and version."""
    digest = hashlib.blake2b(f"{seed}\x00{patient}".encode(), digest_size=8).digest()
    # 53 bits: the largest integer range that a double divides without rounding up to 1.0.
    return (int.from_bytes(digest, "big") >> 11) / 2.0**53

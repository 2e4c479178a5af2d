"""Division of the rows of one table over sites, for data that come without sites of their own."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fedprivacy.errors import ConfigError

QUANTITY_KINDS = ("uniform", "linear", "square", "exponential")
PARTITION_KINDS = (*QUANTITY_KINDS, "dirichlet")
MAX_DIRICHLET_DRAWS = 100


def partition_rows(
    n: int,
    labels: NDArray[np.int64] | None,
    kind: str,
    n_sites: int,
    alpha: float,
    seed: int,
    min_rows: int = 1,
) -> list[NDArray[np.int64]]:
    """Divide rows 0 .. n-1 over sites: disjoint, complete, no site below ``min_rows``.

    Quantity kinds permute the rows and cut them contiguously in proportion to 1 (``uniform``),
    i (``linear``), i^2 (``square``) or e^i (``exponential``) for site i = 1, 2, ...; every share
    is rounded down and the last site gets the remainder (the splits of NVIDIA FLARE's XGBoost
    example on HIGGS). ``dirichlet`` draws, for each class, the sites' shares from a symmetric
    Dirichlet(``alpha``) and cuts the permuted rows of the class accordingly (Hsu, Qi and Brown
    2019, arXiv 1909.06335, in its per-class form).

    Args:
        n: number of rows.
        labels: ``(n,)`` classes; used by ``dirichlet`` only.
        kind: one of ``PARTITION_KINDS``.
        n_sites: number of sites, at least 1.
        alpha: Dirichlet concentration, > 0; small means skewed.
        seed: the only source of randomness.
        min_rows: smallest site that is accepted, at least 1.

    Returns:
        One sorted int64 index array per site.

    Raises:
        ConfigError: unknown kind, or a division that leaves a site below ``min_rows``.
    """
    if kind not in PARTITION_KINDS:
        allowed = f"one of {', '.join(PARTITION_KINDS)}"
        raise ConfigError("dataset.partition", kind, allowed, "dataset.partition=uniform")
    if n_sites < 1 or n_sites * min_rows > n:
        raise ConfigError(
            "dataset.n_sites",
            n_sites,
            f"at least 1 site and at least {min_rows} of the {n} rows for each",
            f"a number from 1 to {max(1, n // min_rows)}",
        )
    rng = np.random.default_rng(seed)
    if kind == "dirichlet":
        if labels is None or len(labels) != n:
            raise ValueError(f"dirichlet needs one label per row: {n} rows, labels {labels!r}")
        return _dirichlet(np.asarray(labels), n_sites, alpha, rng, min_rows)
    sizes = quantity_sizes(n, kind, n_sites)
    if min(sizes) < min_rows:
        raise ConfigError(
            "dataset.n_sites",
            n_sites,
            f"partition={kind} gives the smallest of {n_sites} sites {min(sizes)} of {n} rows, "
            f"and a site needs {min_rows}",
            "fewer sites, or dataset.partition=uniform",
        )
    cuts = np.cumsum(sizes)[:-1]
    order = rng.permutation(n).astype(np.int64)
    return [np.sort(part) for part in np.split(order, cuts)]


def quantity_sizes(n: int, kind: str, n_sites: int) -> list[int]:
    """Rows of each site for a quantity kind: floor of the exact share, remainder to the last."""
    powers = {"uniform": 0, "linear": 1, "square": 2}
    if kind == "exponential":
        # e^(i - n_sites) has the same shares as e^i and cannot overflow.
        weights = [math.exp(i - n_sites) for i in range(1, n_sites + 1)]
        total = math.fsum(weights)
        sizes = [int(n * weight / total) for weight in weights]
    else:
        # Integers keep the floor exact: in floating point 100 * 0.29 is 28.999...
        integer_weights = [i ** powers[kind] for i in range(1, n_sites + 1)]
        sizes = [n * weight // sum(integer_weights) for weight in integer_weights]
    sizes[-1] = n - sum(sizes[:-1])
    return sizes


def _dirichlet(
    labels: NDArray[np.int64],
    n_sites: int,
    alpha: float,
    rng: np.random.Generator,
    min_rows: int,
) -> list[NDArray[np.int64]]:
    """Label-skewed division; redrawn until every site has ``min_rows`` rows."""
    if not (alpha > 0 and math.isfinite(alpha)):
        raise ConfigError(
            "dataset.dirichlet_alpha", alpha, "a finite number > 0", "dataset.dirichlet_alpha=0.5"
        )
    for _ in range(MAX_DIRICHLET_DRAWS):
        sites: list[list[NDArray[np.int64]]] = [[] for _ in range(n_sites)]
        for label in np.unique(labels):
            rows = rng.permutation(np.flatnonzero(labels == label)).astype(np.int64)
            shares = rng.dirichlet(np.full(n_sites, alpha))
            cuts = (np.cumsum(shares)[:-1] * len(rows)).astype(np.int64)
            for site, part in zip(sites, np.split(rows, cuts), strict=True):
                site.append(part)
        parts = [np.sort(np.concatenate(site)) for site in sites]
        if min(len(part) for part in parts) >= min_rows:
            return parts
    raise ConfigError(
        "dataset.dirichlet_alpha",
        alpha,
        f"{MAX_DIRICHLET_DRAWS} draws each left one of {n_sites} sites with fewer than "
        f"{min_rows} of {len(labels)} rows",
        "a larger dataset.dirichlet_alpha, fewer dataset.n_sites, or another dataset.split_seed",
    )

"""A share of each site's training patients, for learning curves."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from fedprivacy.data.base import FederatedData, SiteData


def keep_share(data: FederatedData, share: float, seed: int) -> FederatedData:
    """Keep a share of the training patients of each site, at least one; held-out records stay.

    The order in which patients go is fixed by the seed and the site's name, so smaller shares are
    subsets of larger ones. A patient's records go together.

    Args:
        data: the whole.
        share: above 0, at most 1.
        seed: ``dataset.split_seed``.
    """
    if share >= 1:
        return data
    return replace(data, sites=tuple(_kept(site, share, seed) for site in data.sites))


def _kept(site: SiteData, share: float, seed: int) -> SiteData:
    patients = np.unique(site.train_patients)
    words = np.frombuffer(site.name.encode(), dtype=np.uint8).tolist()
    order = np.random.default_rng([seed, *words]).permutation(len(patients))
    chosen = patients[order[: max(1, math.floor(share * len(patients) + 1e-9))]]
    mask = np.isin(site.train_patients, chosen)
    return replace(
        site,
        train_x=site.train_x[mask],
        train_y=site.train_y[mask],
        train_patients=site.train_patients[mask],
    )

"""Who trains on what: each site by itself, or one node that holds everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fedprivacy.data.base import FederatedData, SiteData

POOLED = "pooled"


@dataclass(frozen=True)
class Node:
    """One participant of the federation.

    Attributes:
        name: the site's name, or ``pooled``.
        train: the records it trains on.
        evaluate: the sites whose held-out records it scores its model on.
    """

    name: str
    train: SiteData
    evaluate: tuple[SiteData, ...]


def arrange(data: FederatedData, federation: str) -> tuple[Node, ...]:
    """Participants of a federation.

    ``fedavg``: every site, scoring its own held-out records. ``central``: one node with all
    records. ``local``: every site alone, scoring its own model on the held-out records of all
    sites, so that local models can be compared with the federated one.
    """
    if federation == "central":
        return (Node(POOLED, pool(data.sites), data.sites),)
    if federation == "local":
        return tuple(Node(site.name, site, data.sites) for site in data.sites)
    return tuple(Node(site.name, site, (site,)) for site in data.sites)


def pool(sites: Sequence[SiteData]) -> SiteData:
    """All sites' records as one site."""
    return SiteData(
        name=POOLED,
        train_x=torch.cat([s.train_x for s in sites]),
        train_y=torch.cat([s.train_y for s in sites]),
        test_x=torch.cat([s.test_x for s in sites]),
        test_y=torch.cat([s.test_y for s in sites]),
        train_patients=np.concatenate([s.train_patients for s in sites]),
        test_patients=np.concatenate([s.test_patients for s in sites]),
    )

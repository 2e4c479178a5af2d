"""Who trains on what: each site by itself, or one node that holds everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from fedprivacy.audit.coins import Canaries, CoinPlan, plant
from fedprivacy.config.schema import CellConfig
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


@dataclass(frozen=True)
class Arrangement:
    """The participants of a cell, as they train.

    Attributes:
        nodes: the participants; an audited one trains on the records that its coins chose.
        canaries: candidates of each audited node, by name; empty without an audit.
    """

    nodes: tuple[Node, ...]
    canaries: Mapping[str, Canaries]


def arrange_cell(config: CellConfig, data: FederatedData) -> Arrangement:
    """Participants of a cell, with an audit's canaries planted; deterministic in ``config``."""
    nodes = arrange(data, config.federation.name)
    audit = config.audit
    if audit.name == "none":
        return Arrangement(nodes, {})
    plan = CoinPlan(audit.kind, audit.canaries, audit.seed)  # type: ignore[arg-type]
    audited = nodes if audit.sites == "all" else nodes[:1]
    planted, canaries = [], {}
    for node in audited:
        train, canaries[node.name] = plant(node.train, plan, config.seed)
        planted.append(replace(node, train=train))
    return Arrangement((*planted, *nodes[len(planted) :]), canaries)


def largest_participant(config: CellConfig, sizes: Sequence[int]) -> int:
    """Most records that a participant may train on, whatever an audit's coins; it sets delta.

    An audit decides by coins which candidates are trained on. All of them count here, so that
    delta depends on nothing that was drawn.

    Args:
        config: the cell.
        sizes: training records of each site, as the dataset has them.
    """
    own = [sum(sizes)] if config.federation.name == "central" else list(sizes)
    audit = config.audit
    if audit.name == "none" or audit.kind != "random_label":
        return max(own)
    audited = len(own) if audit.sites == "all" else 1
    return max(size + audit.canaries * (place < audited) for place, size in enumerate(own))


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

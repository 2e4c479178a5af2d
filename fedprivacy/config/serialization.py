"""A configuration as plain JSON values and back: how it travels to sites and into results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from fedprivacy.config import schema

GROUPS: dict[str, dict[str, type]] = {
    "algorithm": {
        "none": schema.NoneConf,
        "dpsgd": schema.DpsgdConf,
        "svt": schema.SvtConf,
        "svt_flare28": schema.SvtFlare28Conf,
        "svt_exact": schema.SvtExactConf,
        "gaussian": schema.GaussianConf,
        "gaussian_clipped": schema.GaussianClippedConf,
        "percentile": schema.PercentileConf,
        "central_gaussian": schema.CentralGaussianConf,
        "local_source": schema.LocalSourceConf,
        "release_gaussian": schema.ReleaseGaussianConf,
        "stacked": schema.StackedConf,
    },
    "dataset": {
        "wisconsin": schema.WisconsinConf,
        "higgs": schema.HiggsConf,
        "ixi_tiny": schema.IxiConf,
        "breast_density": schema.BreastDensityConf,
    },
    "model": {
        "mlp": schema.MlpConf,
        "density_cnn": schema.DensityCnnConf,
        "unet3d": schema.UNet3dConf,
    },
}
SINGLE: dict[str, type] = {
    "schedule": schema.ScheduleConf,
    "federation": schema.FederationConf,
    "engine": schema.EngineConf,
    "privacy": schema.PrivacyConf,
    "audit": schema.AuditConf,
    "tracking": schema.TrackingConf,
    "collapse": schema.CollapseConf,
    "sweep": schema.SweepConf,
    "tuning": schema.TuningConf,
}
_NESTED: dict[str, type] = {
    "training": schema.TrainingDefaults,
    "pruning": schema.PruningConf,
    "warm_start": schema.WarmStartConf,
    "search_price": schema.SearchPriceConf,
}


def to_plain(config: object) -> dict[str, Any]:
    """The configuration as nested dictionaries of JSON values."""
    return asdict(config)  # type: ignore[call-overload, no-any-return]


def from_plain(plain: Mapping[str, Any]) -> schema.CellConfig:
    """Inverse of ``to_plain``; group members are told apart by their ``name``."""
    values: dict[str, Any] = dict(plain)
    for group, members in GROUPS.items():
        values[group] = _build(members[plain[group]["name"]], plain[group])
    for group, cls in SINGLE.items():
        values[group] = _build(cls, plain[group])
    return schema.CellConfig(**values)


def dataset_from_plain(plain: Mapping[str, Any]) -> schema.DatasetConf:
    """One dataset's configuration from plain values."""
    conf: schema.DatasetConf = _build(GROUPS["dataset"][plain["name"]], plain)
    return conf


def _build(cls: type, plain: Mapping[str, Any]) -> Any:
    values = dict(plain)
    for name in {f.name for f in fields(cls)} & _NESTED.keys():
        values[name] = _NESTED[name](**values[name])
    return cls(**values)


def dumps(config: schema.CellConfig) -> str:
    """The configuration as one line of JSON."""
    return json.dumps(to_plain(config), sort_keys=True)


def loads(text: str) -> schema.CellConfig:
    """Inverse of ``dumps``."""
    return from_plain(json.loads(text))

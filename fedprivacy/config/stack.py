"""The parts of a stacked algorithm: from names and a few settings to whole configurations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from fedprivacy.config.schema import AlgorithmConf, DatasetConf, StackedConf
from fedprivacy.config.serialization import GROUPS
from fedprivacy.errors import ConfigError

_KEY = "algorithm.mechanisms"
_EXAMPLE = "algorithm.mechanisms=[dpsgd,{name: gaussian_clipped, clip: 0.5}]"


def completed(conf: StackedConf, dataset: DatasetConf) -> StackedConf:
    """The stack with every setting of its parts written out; idempotent.

    A part is a name or a mapping with ``name``; what is not given is the dataset's default where
    there is one (noise, sampling rate, bounds), else the algorithm's.

    Raises:
        ConfigError: a part is no algorithm, or has a key that its algorithm does not know.
    """
    return replace(conf, mechanisms=[_completed(part, dataset) for part in conf.mechanisms])


def parts(conf: StackedConf) -> tuple[AlgorithmConf, ...]:
    """The configurations of a completed stack's parts.

    Raises:
        ConfigError: a part is not complete.
    """
    return tuple(_built(part) for part in conf.mechanisms)


def algorithms_of(conf: AlgorithmConf, dataset: DatasetConf) -> tuple[AlgorithmConf, ...]:
    """The parts of a stack, or the algorithm itself."""
    return parts(completed(conf, dataset)) if isinstance(conf, StackedConf) else (conf,)


def _completed(part: Any, dataset: DatasetConf) -> dict[str, Any]:
    given = {"name": part} if isinstance(part, str) else part
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise ConfigError(_KEY, part, "the name of an algorithm, or its settings", _EXAMPLE)
    usual = _from_dataset(str(given["name"]), dataset)
    chosen = {key: value for key, value in given.items() if value is not None or key not in usual}
    return asdict(_built({**usual, **chosen}))


def _from_dataset(name: str, dataset: DatasetConf) -> dict[str, Any]:
    training = dataset.training
    if name == "dpsgd":
        return {
            "noise_multiplier": training.noise_multiplier,
            "sampling_rate": training.sampling_rate,
            "max_grad_norm": training.max_grad_norm,
        }
    return {"bounds": list(dataset.feature_bounds)} if name == "local_source" else {}


def _built(part: Mapping[str, Any]) -> AlgorithmConf:
    members = GROUPS["algorithm"]
    name = part["name"] if isinstance(part, Mapping) and "name" in part else part
    if name not in members or name == "stacked":
        names = [member for member in members if member != "stacked"]
        allowed = f"algorithms among {', '.join(names)}; stacks do not nest"
        raise ConfigError(_KEY, name, allowed, _EXAMPLE)
    cls = members[name]
    known = {field.name for field in fields(cls)}
    if unknown := sorted(set(part) - known):
        allowed = f"keys of {name}: {', '.join(sorted(known - {'name'}))}"
        raise ConfigError(_KEY, unknown[0], allowed, _EXAMPLE)
    conf: AlgorithmConf = cls(**part)
    if getattr(conf, "target_epsilon", None) is not None:
        raise ConfigError(
            f"{_KEY}[{name}].target_epsilon",
            getattr(conf, "target_epsilon", None),
            "null in a stack: a target is calibrated for DP-SGD alone",
            "calibrate with algorithm=dpsgd and give the noise_multiplier that it reports",
        )
    return conf

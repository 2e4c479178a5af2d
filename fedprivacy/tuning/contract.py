"""What a study promises: the conditions under which all its trials are comparable, and its place.

A folder belongs to one study. Confirmations, twins and trials are found by their place in it, so a
second study in the same folder would take the first one's runs, of another budget, for its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedprivacy.config.identity import dataset_fingerprint, meaning
from fedprivacy.config.schema import CellConfig, TuningConf
from fedprivacy.errors import ConfigError
from fedprivacy.pricing.twins import flatten
from fedprivacy.result import write_json
from fedprivacy.tuning.space import SearchSpace

CONTRACT, FILE = "contract", "contract.json"


def contract(config: CellConfig, space: SearchSpace) -> dict[str, Any]:
    """What must stay the same for the trials of a study to be comparable, as JSON values."""
    conf = config.tuning
    searched = {parameter.key for parameter in space}
    fixed = {
        key: value
        for key, value in flatten(meaning(config))
        # A searched group brings its own keys with it.
        if key not in searched and key.partition(".")[0] not in searched
    }
    budgets: dict[str, Any] = {"budget": conf.budget} if conf.mode == "budget" else {}
    if conf.mode == "front" and conf.front == "union":
        budgets = {"budgets": sorted(conf.budgets)}
    elif conf.mode != "budget":
        budgets = {"epsilon_range": list(conf.epsilon_range)}
    promised = {
        "tuning.mode": conf.mode,
        "tuning.front": conf.front if conf.mode == "front" else None,
        **{f"tuning.{key}": value for key, value in budgets.items()},
        **{f"tuning.space.{p.key}": p.to_json() for p in space},
        "tuning.seeds": conf.seeds,
        "tuning.floor": conf.floor,
        "tuning.twin": conf.twin,
        "collapse.fraction": config.collapse.fraction,
        "tuning.search_price.scheme": conf.search_price.scheme,
        "data": dataset_fingerprint(config.dataset),
        **fixed,
    }
    return dict(json.loads(json.dumps(promised)))


def check_same(conf: TuningConf, known: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on under other conditions.

    Raises:
        ConfigError: names the first condition that changed, and the way to another study.
    """
    order = {"tuning.mode": 0, "tuning.front": 1}  # which other keys there are follows from them
    keys = sorted(
        known.keys() | now.keys(), key=lambda key: (order.get(key, 2), "tuning" not in key, key)
    )
    changed = [key for key in keys if known.get(key, "absent") != now.get(key, "absent")]
    if not changed:
        return
    key = changed[0]
    others = f" (and {len(changed) - 1} more: {', '.join(changed[1:6])})" if changed[1:] else ""
    raise ConfigError(
        key,
        now.get(key, "absent"),
        f"{known.get(key, 'absent')!r}, with which the study {conf.name!r} began{others}: trials "
        "under other conditions cannot be compared",
        f"repeat the first command to go on, or start another study, with a folder of its own: "
        f"{another(conf)}",
    )


def another(conf: TuningConf) -> str:
    """Overrides that start a study beside this one."""
    name = f"{conf.name}_2"
    return f"tuning.name={name} tuning.dir={Path(conf.dir).parent / name}"


def check_folder(config: CellConfig, space: SearchSpace) -> None:
    """See that the folder is the study's own, or nobody's yet.

    Raises:
        ConfigError: the folder is another study's, or this one's under other conditions.
    """
    conf = config.tuning
    known = _read(Path(conf.dir) / FILE)
    if known is None:
        return
    if known.get("tuning.name") != conf.name:
        raise ConfigError(
            "tuning.dir",
            conf.dir,
            f"a folder of its own: this one holds the study {known.get('tuning.name')!r}",
            another(conf),
        )
    check_same(conf, known, _promised(config, space))


def keep_folder(config: CellConfig, space: SearchSpace) -> None:
    """Make the folder the study's own; see ``check_folder``."""
    check_folder(config, space)
    path = Path(config.tuning.dir) / FILE
    if not path.exists():
        write_json(path, _promised(config, space))


def _promised(config: CellConfig, space: SearchSpace) -> dict[str, Any]:
    return {"tuning.name": config.tuning.name, **contract(config, space)}


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            "tuning.dir",
            str(path.parent),
            f"a folder whose {FILE} can be read ({error})",
            "give another tuning.dir, or move that folder away",
        ) from error

"""The Optuna study of a search: what it promises, and how its trials are picked and compared."""

from __future__ import annotations

import logging
import random
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fedprivacy.config.schema import CellConfig, TuningConf
from fedprivacy.errors import ConfigError
from fedprivacy.tuning.contract import CONTRACT, check_same, contract
from fedprivacy.tuning.space import SearchSpace

if TYPE_CHECKING:
    import optuna
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage

    from fedprivacy.tuning.reach_sampler import Reach

MODES = ("budget", "floor", "front")
FRONTS = ("union", "multi")
SAMPLERS = ("tpe", "gp", "random")

# What Hydra reads as a group's name: recommended.yaml is run by its folder's.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z0-9_][A-Za-z0-9_-]*)*(?<!-)")

log = logging.getLogger(__name__)


def directions(conf: TuningConf) -> list[Literal["minimize", "maximize"]]:
    """What is optimised: score upwards, or epsilon downwards, or both."""
    if conf.mode == "floor":
        return ["minimize"]
    if conf.mode == "front" and conf.front == "multi":
        return ["maximize", "minimize"]
    return ["maximize"]


def open_study(
    config: CellConfig,
    space: SearchSpace,
    storage: BaseStorage,
    seed: int | None,
    reach: Reach | None = None,
) -> optuna.Study:
    """Make the study, or go on with the one of that name.

    Args:
        config: the configuration as typed.
        space: what is searched.
        storage: where the study is kept.
        seed: of the sampler; None: from the operating system.
        reach: how far settings reach, where a sampler may go by it.

    Raises:
        ConfigError: the study of that name searches something else.
    """
    import optuna

    conf = config.tuning
    study = optuna.create_study(
        storage=storage,
        study_name=conf.name,
        directions=directions(conf),
        sampler=_sampler(conf, seed, reach),
        pruner=_pruner(conf),
        load_if_exists=True,
    )
    promised = contract(config, space)
    known = study.user_attrs.get(CONTRACT)
    if known is None:
        study.set_user_attr(CONTRACT, promised)
    else:
        check_same(conf, known, promised)
    return study


def check_tuning(conf: TuningConf) -> None:
    """Refuse settings of a search that cannot be meant.

    Raises:
        ConfigError: names the key, the value, what is allowed and the fix.
    """
    from fedprivacy.config.validation import in_range, one_of

    one_of("tuning.mode", conf.mode, MODES)
    one_of("tuning.front", conf.front, FRONTS)
    one_of("tuning.sampler", conf.sampler, SAMPLERS)
    one_of("tuning.publish", conf.publish, ("all", "best_only"))
    schemes = ("auto", "public_data", "random_best_only", "adaptive")
    one_of("tuning.search_price.scheme", conf.search_price.scheme, schemes)
    in_range("tuning.search_price.shape", conf.search_price.shape, least=0, most=1)
    in_range("tuning.n_trials", conf.n_trials, least=1)
    in_range("tuning.seeds", conf.seeds, least=1)
    in_range("tuning.confirm", conf.confirm, least=0)
    in_range("tuning.confirm_seeds", conf.confirm_seeds, least=1)
    in_range("tuning.max_failed", conf.max_failed, least=1)
    in_range("tuning.lease_s", conf.lease_s, least=1)
    in_range("tuning.warm_start.most", conf.warm_start.most, least=0)
    pruning = conf.pruning
    for key in (
        "startup_trials",
        "warmup_rounds",
        "patience",
        "chance_rounds",
        "snr_rounds",
        "between",
    ):
        in_range(f"tuning.pruning.{key}", getattr(pruning, key), least=0)
    in_range("tuning.pruning.min_snr", pruning.min_snr, least=0)
    if pruning.reach:
        in_range("tuning.pruning.reach", pruning.reach, above=1, fix="tuning.pruning.reach=30")
    in_range("tuning.warm_start.spread", conf.warm_start.spread, least=0)
    if conf.floor is not None:
        # The scores that are defined lie between -1 (kappa) and 1.
        in_range("tuning.floor", conf.floor, least=-1, most=1, fix="tuning.floor=0.6")
    _check_places(conf)
    _check_budgets(conf)
    _check_best_only(conf)


def _check_places(conf: TuningConf) -> None:
    """A name is that of a folder, an MLflow experiment, and of what recommended.yaml is run by."""
    for key, text in (("name", conf.name), ("dir", Path(conf.dir).name)):
        if not _NAME.fullmatch(text):
            allowed = "a name of letters, digits, '_', '-' and single '.', a letter or '_' first"
            allowed += " (the last folder of it)" if key == "dir" else ""
            raise ConfigError(f"tuning.{key}", getattr(conf, key), allowed, "tuning.name=my_study")
    for folder in conf.warm_start.studies:
        if not Path(folder).is_dir():
            raise ConfigError(
                "tuning.warm_start.studies",
                str(folder),
                "folders of earlier studies or sweeps; there is no such folder",
                "mend the path, or tuning.warm_start.studies=[]",
            )


def _check_budgets(conf: TuningConf) -> None:
    from fedprivacy.config.validation import in_range

    if conf.mode == "budget":
        if conf.budget is None:
            raise ConfigError("tuning.budget", None, "a finite number above 0", "tuning.budget=3")
        in_range("tuning.budget", conf.budget, above=0)
    for budget in conf.budgets:
        in_range("tuning.budgets", budget, above=0)
    if conf.mode == "front" and (not conf.budgets or len(set(conf.budgets)) < len(conf.budgets)):
        raise ConfigError(
            "tuning.budgets", list(conf.budgets), "budgets that differ", "tuning.budgets=[1,3,8]"
        )
    low_high = list(conf.epsilon_range)
    if len(low_high) != 2 or not 0 < low_high[0] < low_high[1] < float("inf"):
        raise ConfigError(
            "tuning.epsilon_range",
            low_high,
            "two finite numbers above 0, the smaller first",
            "tuning.epsilon_range=[0.3,30]",
        )


def _check_best_only(conf: TuningConf) -> None:
    """A price for random search holds for a random search alone (Papernot & Steinke 2022)."""
    if conf.publish == "best_only" and conf.mode == "front":
        raise ConfigError(
            "tuning.publish", conf.publish, "'all' with tuning.mode=front: a front is more than "
            "one trial", "tuning.publish=all, or tuning.mode=budget",
        )  # fmt: skip
    if conf.search_price.scheme != "random_best_only":
        return
    broken = {
        "tuning.mode": (conf.mode, "budget"),
        "tuning.sampler": (conf.sampler, "random"),
        "tuning.publish": (conf.publish, "best_only"),
        "tuning.pruning.median": (conf.pruning.median, False),
        "tuning.pruning.chance_rounds": (conf.pruning.chance_rounds, 0),
        "tuning.pruning.snr_rounds": (conf.pruning.snr_rounds, 0),
        "tuning.pruning.between": (conf.pruning.between, 0),
        "tuning.warm_start.studies": (list(conf.warm_start.studies), []),
        "tuning.warm_start.mlflow": (conf.warm_start.mlflow, False),
        "tuning.warm_start.rules": (conf.warm_start.rules, False),
        "tuning.warm_start.spread": (conf.warm_start.spread, 0),
        "tuning.twin": (conf.twin and conf.floor is None, False),
        "tuning.confirm": (conf.confirm, 0),
        "tuning.seeds": (conf.seeds, 1),
    }
    for key, (value, needed) in broken.items():
        if value != needed:
            raise ConfigError(
                key,
                value,
                f"{needed!r} with search_price.scheme=random_best_only, whose price holds for "
                "independent random trials of which the best alone is published",
                "tuning=private_random, or tuning.search_price.scheme=adaptive",
            )


def _sampler(conf: TuningConf, seed: int | None, reach: Reach | None) -> BaseSampler:
    from optuna.samplers import GPSampler, RandomSampler, TPESampler

    # Workers that share a study must not all begin with the same settings.
    seed = seed if seed is not None else random.SystemRandom().randrange(2**31)
    if conf.sampler == "random":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Optuna, about its own experiments
        if conf.sampler == "gp":
            return GPSampler(seed=seed)
        tpe = TPESampler(seed=seed, n_startup_trials=10, warn_independent_sampling=False)
    if reach is None or conf.mode != "budget":
        return tpe
    from fedprivacy.tuning.reach_sampler import ReachSampler

    return ReachSampler(tpe, reach, seed)


def _pruner(conf: TuningConf) -> BasePruner:
    from optuna.pruners import MedianPruner, NopPruner, PatientPruner

    if conf.mode != "budget" or not conf.pruning.median:
        return NopPruner()
    median = MedianPruner(conf.pruning.startup_trials, conf.pruning.warmup_rounds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PatientPruner(median, patience=conf.pruning.patience)

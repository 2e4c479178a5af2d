"""A search from beginning to end: open the study, work on it, close it when all trials are done."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import OmegaConf

from fedprivacy.config.composer import Composer, group_names
from fedprivacy.config.loading import to_cell_config, to_plain_config
from fedprivacy.config.schema import CellConfig, PruningConf
from fedprivacy.config.serialization import from_plain
from fedprivacy.errors import ConfigError
from fedprivacy.sweep.plan import checked
from fedprivacy.tuning.contract import check_folder, keep_folder
from fedprivacy.tuning.floor import Floor, Recorder, find_floor
from fedprivacy.tuning.outcome import Outcome
from fedprivacy.tuning.planning import (
    check_budget,
    check_one_kind,
    check_same_releases,
    check_space,
)
from fedprivacy.tuning.progress import StudyProgress
from fedprivacy.tuning.reach import reach
from fedprivacy.tuning.recommendation import candidates
from fedprivacy.tuning.search_price import RANDOM, draw_trials
from fedprivacy.tuning.space import SearchSpace, Value, read_space
from fedprivacy.tuning.storage import open_storage, study_lock
from fedprivacy.tuning.study import check_tuning, open_study
from fedprivacy.tuning.trial import TrialRunner
from fedprivacy.tuning.warm_start import enqueue_starts
from fedprivacy.tuning.worker import count, work

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage

    from fedprivacy.tuning.reach_sampler import Reach

FLOOR, WARM, DRAWN = "floor", "warm", "n_trials"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Search:
    """A study and what belongs to it.

    Attributes:
        config: the configuration as typed, checked.
        space: what is searched.
        composer: composes cells.
        storage: where the study is kept.
        study: of one budget, or with two objectives.
        floor: below which a score has collapsed.
        n_trials: finished and pruned trials to reach.
        beside: folders of other runs that the search looked at, such as a front's twins.
    """

    config: CellConfig
    space: SearchSpace
    composer: Composer
    storage: BaseStorage
    study: optuna.Study
    floor: Floor
    n_trials: int
    beside: tuple[Path, ...] = ()


def prepare(composer: Composer) -> tuple[CellConfig, SearchSpace]:
    """Check everything that can be known before the first trial.

    Raises:
        ConfigError: a setting of the search, its space or its budget cannot be meant.
        DataError: real files are missing.
    """
    base = composer.base()
    config = to_cell_config(base)
    check_tuning(config.tuning)
    checked(config)
    _check_group(Path(config.tuning.dir).name, group_names(base))
    for key in ("noise_multiplier", "target_epsilon"):
        _refuse_typed_noise(composer, key)
    space = read_space(config.tuning.space, _whole_keys(base, config))
    check_space(composer, space)
    check_one_kind(composer, space)
    for budget in _budgets(config):
        check_budget(composer, space, budget)
    if config.tuning.search_price.scheme == RANDOM:
        check_same_releases(composer, space, _budgets(config)[0])
    return config, space


def _check_group(name: str, groups: frozenset[str]) -> None:
    """recommended.yaml is composed by its folder's name, which must be no group already."""
    if name in groups | {"hydra", "sweeps", "experiment"}:
        raise ConfigError(
            "tuning.dir",
            name,
            "a folder whose name is no group of the configuration: recommended.yaml is run by it",
            f"tuning.name={name}_study",
        )


def _refuse_typed_noise(composer: Composer, key: str) -> None:
    typed = [
        text for text in composer.overrides if text.lstrip("+").startswith(f"algorithm.{key}=")
    ]
    if typed:
        raise ConfigError(
            f"algorithm.{key}",
            typed[0].partition("=")[2],
            "left alone: a study calibrates the noise to its budget",
            "drop it; set tuning.budget instead",
        )


def _budgets(config: CellConfig) -> list[float]:
    tuning = config.tuning
    if tuning.mode == "budget":
        assert tuning.budget is not None
        return [tuning.budget]
    if tuning.mode == "front" and tuning.front == "union":
        return list(tuning.budgets)
    return [tuning.epsilon_range[1]]


def reaching(config: CellConfig, composer: Composer) -> Reach | None:
    """How far settings of the study reach, and the range in which it looks; None: undefined."""
    from fedprivacy.tuning.reach_sampler import Reach

    usual = reach(config)
    if usual is None:
        return None
    factor = config.tuning.pruning.reach or PruningConf().reach

    def of(settings: Mapping[str, Value]) -> float | None:
        try:
            return reach(from_plain(to_plain_config(composer.compose(settings).node)))
        except ConfigError:
            return None

    return Reach(of, usual / factor, usual * factor)


def _whole_keys(base: object, config: CellConfig) -> frozenset[str]:
    """Searched keys whose configured value is a whole number."""
    found = set()
    for key in map(str, config.tuning.space):
        value = OmegaConf.select(base, key)  # type: ignore[arg-type]
        if isinstance(value, int) and not isinstance(value, bool):
            found.add(key)
    return frozenset(found)


def open_search(
    config: CellConfig, space: SearchSpace, composer: Composer, record: Recorder,
    floor: Floor | None = None, beside: tuple[Path, ...] = (),
) -> Search:  # fmt: skip
    """Open or make the study; the first worker finds the floor and queues the first trials.

    Args:
        config: of ``prepare``.
        space: of ``prepare``.
        composer: what was typed.
        record: puts cells into MLflow.
        floor: of the whole search, if the study is a part of it.
        beside: folders of the runs that gave it that floor.

    Raises:
        ConfigError: the study of that name searches something else, or the twin is no better than
            chance.
    """
    tuning = config.tuning
    check_folder(config, space)
    storage = open_storage(tuning)
    with study_lock(tuning):
        study = open_study(config, space, storage, tuning.sampler_seed, reaching(config, composer))
        keep_folder(config, space)
        known = study.user_attrs.get(FLOOR)
        if known is not None:
            floor = Floor(**known)
        else:
            floor = floor or find_floor(config, composer, record)
            study.set_user_attr(FLOOR, floor.to_json())
        if not study.user_attrs.get(WARM):
            queued = enqueue_starts(study, config, space, composer)
            study.set_user_attr(WARM, True)
            log.info("%s begins with %d settings", tuning.name, queued)
        n_trials = _number_of_trials(study, config)
    return Search(config, space, composer, storage, study, floor, n_trials, beside)


def _number_of_trials(study: optuna.Study, config: CellConfig) -> int:
    """As asked for; of a private random search drawn once, with what was asked for as its mean."""
    tuning = config.tuning
    if tuning.search_price.scheme != RANDOM:
        return tuning.n_trials
    drawn: int | None = study.user_attrs.get(DRAWN)
    if drawn is None:
        secret = config.privacy.randomness == "secret"
        rng = np.random.default_rng(None if secret else config.seed)
        drawn = draw_trials(tuning.n_trials, tuning.search_price.shape, rng)
        study.set_user_attr(DRAWN, drawn)
    return drawn


def run_search(search: Search, record: Recorder) -> None:
    """Work on the study until all its trials are done, whoever else does.

    Raises:
        SearchFailed: too many trials broke.
    """
    tuning = search.config.tuning
    progress = StudyProgress(search.n_trials, tuning.mode)
    progress.begin(count(search.study.get_trials(deepcopy=False)))
    runner = TrialRunner(
        search.study,
        search.config,
        search.space,
        search.composer,
        search.floor,
        record,
        progress.round,
    )

    def run(trial: optuna.Trial) -> Outcome:
        outcome = runner.run(trial)
        trials = search.study.get_trials(deepcopy=False)
        progress.trial(trial.number, outcome, count(trials), best_words(trials, tuning.mode))
        return outcome

    work(
        search.study,
        run,
        n_trials=search.n_trials,
        max_failed=tuning.max_failed,
        lease_s=tuning.lease_s,
        lock=functools.partial(study_lock, tuning),
    )


def best_words(trials: list[optuna.trial.FrozenTrial], mode: str) -> str:
    """The best setting so far, in a few words."""
    found = [candidate for candidate in candidates(trials, mode) if candidate.feasible]
    if not found:
        return "none yet"
    best = found[0] if mode != "front" else found[-1]
    return f"{best.score:.4f} at epsilon {best.epsilon:.3g} (trial {best.trial})"


def part_of_front(config: CellConfig, budget: float) -> CellConfig:
    """The study of one budget of a front: a study of its own, in a folder of the front's."""
    tuning = config.tuning
    place = sorted(tuning.budgets).index(budget)
    share, rest = divmod(tuning.n_trials, len(tuning.budgets))
    return replace(
        config,
        tuning=replace(
            tuning,
            mode="budget",
            budget=budget,
            name=f"{tuning.name}_epsilon_{budget:g}",
            dir=str(Path(tuning.dir) / f"epsilon_{budget:g}"),
            n_trials=share + (place < rest),
        ),
    )

"""Where a study begins: defaults, rules of thumb, and what earlier runs of the dataset found."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import OmegaConf

from fedprivacy.config.composer import Composer
from fedprivacy.config.composition import parse
from fedprivacy.config.identity import meaning
from fedprivacy.config.loading import to_plain_config
from fedprivacy.config.schema import CellConfig, DpsgdConf
from fedprivacy.config.serialization import from_plain
from fedprivacy.errors import ConfigError, DataError
from fedprivacy.mechanisms.sampling import dpsgd_steps
from fedprivacy.pricing.twins import flatten
from fedprivacy.result import RESULT_FILE, CellResult, read_result
from fedprivacy.tracking.connection import TrackingError, check, client
from fedprivacy.tuning.ownership import ORIGIN
from fedprivacy.tuning.planning import Infeasible, plan_cell
from fedprivacy.tuning.reach import reach
from fedprivacy.tuning.space import EPSILON, RATE, SearchSpace, Value

if TYPE_CHECKING:
    import optuna

_REFERENCE_EPSILON = 8.0
_MOST_RUNS = 1000
_AROUND, _CLOSE, _TRIES = 2.5, 1.1, 60
_LADDER = (3.0, 1.0, 2.0, 1.0, 0.5, 4.0)
"""How far the first random settings reach, beside the defaults."""
_SAMPLING = ("algorithm.sampling_rate", "federation.local_epochs", "federation.rounds")

log = logging.getLogger(__name__)

Start = tuple[dict[str, Value], str]
"""Settings to try, and where they come from."""


def enqueue_starts(
    study: optuna.Study, config: CellConfig, space: SearchSpace, composer: Composer
) -> int:
    """Queue the first trials of a new study; how many were queued.

    A study that has trials already, or a queue, is left as it is.
    """
    if study.get_trials(deepcopy=False):
        return 0
    seen: list[dict[str, Value]] = []
    for settings, origin in starts(config, space, composer):
        if settings not in seen:
            seen.append(settings)
            searched = _epsilon(config, len(seen))
            study.enqueue_trial({**settings, **searched}, user_attrs={ORIGIN: origin})
    return len(seen)


def _epsilon(config: CellConfig, number: int) -> dict[str, Value]:
    """The epsilon of the n-th start where epsilon is searched: the range is halved and halved."""
    if config.tuning.mode == "budget":
        return {}
    place, step = 0.0, 0.5
    while number:  # van der Corput 1935: 1/2, 1/4, 3/4, 1/8, ...
        place, number, step = place + step * (number & 1), number >> 1, step / 2
    low, high = config.tuning.epsilon_range
    return {EPSILON: low * (high / low) ** place}


def starts(config: CellConfig, space: SearchSpace, composer: Composer) -> Iterator[Start]:
    """Settings worth a first look, the surest first."""
    tuning = config.tuning
    if tuning.warm_start.rules:
        yield from _rules(config, space, composer)
    for settings in _spread(config, space, composer):
        yield settings, "at random, a few times as far as the defaults"
    earlier = itertools.chain(
        _from_folders(config, space, tuning.warm_start.studies), _from_mlflow(config, space)
    )
    best = sorted(earlier, key=lambda found: found[0], reverse=True)
    for _, settings, origin in best[: tuning.warm_start.most]:
        yield settings, origin


def _middle(ends: Iterable[float]) -> float:
    low, high = ends
    return math.sqrt(low * high)


# --------------------------------------------------------------------------- rules of thumb


def _rules(config: CellConfig, space: SearchSpace, composer: Composer) -> Iterator[Start]:
    usual = usual_settings(space, composer)
    yield usual, "the defaults"
    budget = config.tuning.budget or _middle(config.tuning.epsilon_range)
    if (scaled := _scaled_rate(usual, space, budget)) is not None:
        yield scaled, "learning rate in proportion to epsilon (Panda et al. 2024)"
    if (loud := _loudest(usual, space, composer, budget)) is not None:
        # Fewer steps at the same rate would leave the model where it began.
        loud = _reaching(_reach(composer, usual), loud, space, composer)
        yield loud, "largest q sqrt(T) / sigma (Sander et al. 2023), as far as the defaults"


def usual_settings(space: SearchSpace, composer: Composer) -> dict[str, Value]:
    """What the configuration says of each searched key, or the nearest value that is searched."""
    settings: dict[str, Value] = {}
    for parameter in space:
        if not parameter.exists(settings):
            continue
        groups = {key: value for key, value in settings.items() if "." not in key}
        node = composer.compose(groups).node
        value = OmegaConf.select(node, parameter.key)
        if OmegaConf.is_config(value):  # a group: its choice is the name inside
            value = value.get("name")
        if not parameter.contains(value):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            value = parameter.nearest(value) if number else parameter.ends()[0]
        settings[parameter.key] = value
    return settings


@dataclass(frozen=True)
class _AtRandom:
    """Picks values as a random sampler would."""

    rng: np.random.Generator

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        if log:
            return round(self.suggest_float(name, low, high, step=None, log=True))
        return low + step * int(self.rng.integers((high - low) // step + 1))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None, log: bool
    ) -> float:
        if log:
            return math.exp(self.rng.uniform(math.log(low), math.log(high)))
        if step is None:
            return float(self.rng.uniform(low, high))
        return low + step * int(self.rng.integers(math.floor((high - low) / step + 1e-9) + 1))


def _spread(
    config: CellConfig, space: SearchSpace, composer: Composer
) -> Iterator[dict[str, Value]]:
    """Random settings that reach as far as the defaults do, or a few times further or less far.

    Without a learning rate to set, those of many random settings that reach about as far.
    """
    usual, wanted = reach(config), config.tuning.warm_start.spread
    if usual is None:
        return
    seed = config.tuning.sampler_seed if config.tuning.sampler_seed is not None else config.seed
    source, found = _AtRandom(np.random.default_rng([seed, 3])), 0
    for _ in range(_TRIES * wanted):
        if found == wanted:
            return
        try:
            settings = space.suggest(source)
            if space.get(RATE) is not None:
                goal = usual * _LADDER[found % len(_LADDER)]
                settings = _reaching(goal, settings, space, composer)
                near = _CLOSE
            else:
                goal, near = usual, _AROUND
            far = _reach(composer, settings)
        except ConfigError:
            continue
        if far is not None and goal / near <= far <= goal * near:
            found += 1
            yield settings


def _scaled_rate(
    settings: Mapping[str, Value], space: SearchSpace, budget: float
) -> dict[str, Value] | None:
    """The linear scaling rule: learning rate times steps in proportion to epsilon.

    Panda, Tang, Sehwag, Mahloujifar & Mittal 2024 (arXiv 2212.04486). A default is taken as right
    at epsilon 8.
    """
    parameter, rate = space.get(RATE), settings.get(RATE)
    if parameter is None or not isinstance(rate, int | float):
        return None
    return {**settings, RATE: parameter.nearest(rate * budget / _REFERENCE_EPSILON)}


def _reaching(
    goal: float | None, settings: dict[str, Value], space: SearchSpace, composer: Composer
) -> dict[str, Value]:
    """The same settings with the learning rate that reaches as far, see ``reach``."""
    parameter, rate = space.get(RATE), settings.get(RATE)
    own = _reach(composer, settings)
    if parameter is None or not isinstance(rate, int | float) or not own or not goal:
        return settings
    return {**settings, RATE: parameter.nearest(rate * goal / own)}


def _reach(composer: Composer, settings: Mapping[str, Value]) -> float | None:
    return reach(from_plain(to_plain_config(composer.compose(settings).node)))


def _loudest(
    settings: Mapping[str, Value], space: SearchSpace, composer: Composer, budget: float
) -> dict[str, Value] | None:
    """The sampling with the largest q sqrt(T) / sigma at the budget, among the ends of the ranges.

    Sander, Stock & Sablayrolles 2023 (arXiv 2210.03403, section 3): what a step's signal is worth
    beside the noise of all T steps.
    """
    searched = [p for p in map(space.get, _SAMPLING) if p is not None and p.exists(settings)]
    found: list[tuple[float, dict[str, Value]]] = []
    for values in itertools.product(*({p.ends()[0], p.ends()[-1]} for p in searched)):
        tried = {**settings, **{p.key: v for p, v in zip(searched, values, strict=True)}}
        try:
            cell = plan_cell(composer, tried, budget)
        except Infeasible:
            continue
        conf = cell.config.algorithm
        if isinstance(conf, DpsgdConf) and conf.noise_multiplier:
            federation = cell.config.federation
            steps = dpsgd_steps(federation.local_epochs, conf.sampling_rate) * federation.rounds
            found.append((conf.sampling_rate * math.sqrt(steps) / conf.noise_multiplier, tried))
    return max(found, key=lambda pair: pair[0])[1] if searched and found else None


# --------------------------------------------------------------------------- earlier runs

_Found = tuple[float, dict[str, Value], str]


def _from_folders(config: CellConfig, space: SearchSpace, folders: Iterable[str]) -> list[_Found]:
    """Settings of earlier cells of the same records, from studies and sweeps."""
    found = []
    for folder in folders:
        paths = sorted(Path(folder).rglob(RESULT_FILE))
        if not paths:
            log.warning("tuning.warm_start.studies: there are no results below %s", folder)
        for path in paths:
            try:
                result = read_result(path.parent)
            except DataError as error:
                log.warning("%s", error)
                continue
            if result is not None and (settings := _settings_of(result, config, space)):
                assert result.score is not None
                assert result.score.value is not None
                found.append((result.score.value, settings, f"cell {result.cell_id} in {folder}"))
    return found


def _settings_of(
    result: CellResult, config: CellConfig, space: SearchSpace
) -> dict[str, Value] | None:
    """The settings under which this study would run that cell; None where it could not."""
    if result.status != "ok" or result.score is None or result.score.value is None:
        return None
    own = meaning(config)
    if (
        result.config.get("dataset") != own["dataset"]
        or result.federation != own["federation"]["name"]
    ):
        return None
    return _pick(dict(flatten(result.config)), space)


def _pick(flat: Mapping[str, Any], space: SearchSpace) -> dict[str, Value] | None:
    settings: dict[str, Value] = {}
    for parameter in space:
        if parameter.exists(settings):
            value = flat.get(parameter.key, flat.get(f"{parameter.key}.name"))
            if not parameter.contains(value):
                return None
            settings[parameter.key] = value
    return settings


def _from_mlflow(config: CellConfig, space: SearchSpace) -> list[_Found]:
    """Settings of earlier runs of the same records that MLflow knows, whatever experiment."""
    if not config.tuning.warm_start.mlflow:
        return []
    try:
        check(config.tracking.uri)
        store = client(config.tracking.uri)
        experiments = [e.experiment_id for e in store.search_experiments()]
        wanted = f"tags.dataset = '{config.dataset.name}' and tags.status = 'ok'"
        runs = store.search_runs(
            experiments,
            filter_string=wanted,
            max_results=_MOST_RUNS,
            order_by=["metrics.score DESC"],
        )
    except TrackingError as error:
        log.warning("tuning.warm_start.mlflow: %s; the study starts without", error)
        return []
    own = _texts(meaning(config), "dataset.")
    found = []
    for run in runs:
        texts = run.data.params
        if {k: v for k, v in texts.items() if k.startswith("dataset.")} != own:
            continue
        settings = _pick({key: _value(key, text) for key, text in texts.items()}, space)
        if settings and "score" in run.data.metrics:
            found.append((run.data.metrics["score"], settings, f"MLflow run {run.info.run_id}"))
    return found


def _texts(plain: Mapping[str, Any], prefix: str) -> dict[str, str]:
    from fedprivacy.tracking.content import flat_params

    return {key: text for key, text in flat_params(plain).items() if key.startswith(prefix)}


def _value(key: str, text: str) -> Any:
    """A parameter's value from its text: by the grammar of an override."""
    try:
        return parse([f"{key}={text}"])[0].value()
    except ValueError:
        return text

"""What a trial would run, and whether its privacy fits the budget: known before it trains."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product

from fedprivacy.config.composer import Composed, Composer
from fedprivacy.config.loading import to_cell_config, to_plain_config
from fedprivacy.config.schema import CellConfig, DpsgdConf
from fedprivacy.config.serialization import from_plain, to_plain
from fedprivacy.errors import AccountingError, ConfigError
from fedprivacy.mechanisms.sampling import dpsgd_steps
from fedprivacy.mechanisms.settling import settle
from fedprivacy.schedules import strengths
from fedprivacy.sweep.plan import checked
from fedprivacy.tuning.rules import INFEASIBLE
from fedprivacy.tuning.space import SearchSpace, Value

TARGET = "algorithm.target_epsilon"
_MOST_COMBINATIONS = 64
_RELEASING = ("noise_multiplier", "noise", "sampling", "sampling_rate", "mechanisms")


class Infeasible(Exception):
    """A setting that is not worth training, or cannot meet the budget; its message says why.

    Attributes:
        config: the cell that is not run, its noise not settled; None if there is not even that.
        rule: which rule refuses it.
    """

    def __init__(
        self, reason: str, config: CellConfig | None = None, rule: str = INFEASIBLE
    ) -> None:
        self.config, self.rule = config, rule
        super().__init__(reason)


@dataclass(frozen=True)
class TrialCell:
    """The cell of a trial.

    Attributes:
        config: checked, its noise calibrated.
        composed: as Hydra composed it.
        epsilon: total that it will cost; at or below ``budget``.
        budget: what it may cost.
    """

    config: CellConfig
    composed: Composed
    epsilon: float
    budget: float

    def with_seed(self, seed: int) -> tuple[CellConfig, tuple[str, ...]]:
        """The same cell with another seed, and what to type to get it."""
        return replace(self.config, seed=seed), (*self.composed.overrides, f"seed={seed}")


def plan_cell(
    composer: Composer,
    settings: Mapping[str, Value],
    budget: float,
    check: Callable[[CellConfig], None] = lambda _: None,
) -> TrialCell:
    """The cell of these settings at this budget, everything checked that can be.

    Args:
        composer: what was typed.
        settings: of the trial.
        budget: total epsilon, finite, that the noise is calibrated to.
        check: looks at the configuration before its noise is calibrated; may raise ``Infeasible``.

    Raises:
        Infeasible: no noise makes these settings cost that little, or they cannot be run.
    """
    try:
        composed = composer.compose({**settings, TARGET: budget})
    except ConfigError as error:
        raise _without_target(composer, settings, error) from error
    plain = from_plain(to_plain_config(composed.node))
    _check_rounds(plain)
    check(plain)
    try:
        config = settle(plain)
        checked(config)
        epsilon = _calibrated_epsilon(config)
    except (ConfigError, AccountingError) as error:
        raise Infeasible(str(error), plain) from error
    return TrialCell(config, composed, epsilon, budget)


def _without_target(
    composer: Composer, settings: Mapping[str, Value], error: ConfigError
) -> Infeasible:
    """Why there is no target to set: the mechanism has no price, or the settings are no cell."""
    try:
        config = from_plain(to_plain_config(composer.compose(settings).node))
    except ConfigError:
        return Infeasible(str(error))
    if hasattr(config.algorithm, "target_epsilon"):
        return Infeasible(str(error), config)
    name = config.algorithm.name
    return Infeasible(f"algorithm={name} proves no epsilon that noise could lower", config)


def _check_rounds(config: CellConfig) -> None:
    """Refuse a schedule that leaves rounds raw.

    Raises:
        Infeasible: the total is infinite whatever the noise, or no round is protected.
    """
    try:
        planned = strengths(config.schedule, config.federation.rounds)
    except ConfigError as error:
        raise Infeasible(str(error), config) from error
    if raw := planned.count(None):
        raise Infeasible(
            f"schedule={config.schedule.name} leaves {raw} of {len(planned)} rounds unprotected: "
            "the total epsilon is infinite whatever the noise",
            config,
        )


def _calibrated_epsilon(config: CellConfig) -> float:
    from fedprivacy.mechanisms.calibration import target_noise

    return target_noise(config).epsilon


def check_space(composer: Composer, space: SearchSpace) -> None:
    """Refuse a space whose values, one by one, cannot be configured.

    Raises:
        ConfigError: names the key and the value.
    """
    usual = defaults(space)
    for parameter in space:
        under = {**usual, **{key: values[0] for key, values in parameter.when.items()}}
        for value in parameter.ends():
            settings = {key: v for key, v in under.items() if _exists(space, key, under)}
            settings[parameter.key] = value
            try:
                config = to_cell_config(composer.compose(settings).node)
                checked(config)
            except ConfigError as error:
                error.add_note(f"in tuning.space.{parameter.key}, with the value {value!r}")
                raise


def _exists(space: SearchSpace, key: str, settings: Mapping[str, Value]) -> bool:
    parameter = space.get(key)
    return parameter is not None and parameter.exists(settings)


def defaults(space: SearchSpace) -> dict[str, Value]:
    """One setting of each group in the space: its first choice."""
    settings: dict[str, Value] = {}
    for parameter in space:
        if "." not in parameter.key and parameter.exists(settings):
            settings[parameter.key] = parameter.choices[0]
    return settings


def check_budget(composer: Composer, space: SearchSpace, budget: float) -> None:
    """Refuse a budget that nothing in the space can meet.

    Raises:
        ConfigError: lists why each combination of the space's groups is refused.
    """
    reasons: dict[str, None] = {}
    for settings in _group_combinations(space):
        try:
            plan_cell(composer, settings, budget)
            return
        except Infeasible as why:
            reasons.setdefault(str(why))
    raise ConfigError(
        "tuning.budget",
        budget,
        "a total epsilon that some setting of the space can meet: " + "; ".join(reasons),
        "search a schedule that protects every round and an algorithm with a proved price, or "
        "raise tuning.budget",
    )


def check_one_kind(composer: Composer, space: SearchSpace) -> None:
    """Refuse algorithms whose epsilons speak of different units: no study compares them.

    Raises:
        ConfigError: names the algorithms and their units.
    """
    parameter = space.get("algorithm")
    kinds: dict[str, list[str]] = {}
    for name in parameter.choices if parameter is not None else ():
        config = from_plain(to_plain_config(composer.compose({"algorithm": name}).node))
        if hasattr(config.algorithm, "target_epsilon"):
            record = isinstance(config.algorithm, DpsgdConf)
            kind = "one record, zero_out" if record else "one site, replace_one"
            kinds.setdefault(kind, []).append(str(name))
    if len(kinds) > 1:
        told = "; ".join(f"{', '.join(names)}: {kind}" for kind, names in kinds.items())
        raise ConfigError(
            "tuning.space.algorithm",
            list(parameter.choices) if parameter is not None else [],
            f"algorithms whose epsilon is about the same unit and relation ({told})",
            "a study for each kind; compare their scores, not their epsilons",
        )


def check_same_releases(composer: Composer, space: SearchSpace, budget: float) -> None:
    """Refuse a space whose settings differ in what they release.

    The price of a private random search holds for repetitions of one mechanism alone (Papernot &
    Steinke 2022, arXiv 2110.03620, section 2), which is known before anything is trained.

    Raises:
        ConfigError: names the key.
    """
    usual = defaults(space)
    for parameter in space:
        under = {**usual, **{key: values[0] for key, values in parameter.when.items()}}
        under = {key: value for key, value in under.items() if _exists(space, key, under)}
        found = set[Hashable]()
        for value in parameter.choices or parameter.ends():
            try:
                config = plan_cell(composer, {**under, parameter.key: value}, budget).config
            except Infeasible:
                found.add(None)
            else:
                found.add(_releases(config))
        if len(found) > 1:
            raise ConfigError(
                f"tuning.space.{parameter.key}",
                parameter.to_json(),
                "a key that changes nothing of what is released (not sampling, epochs, rounds, "
                "schedule or mechanism) with search_price.scheme=random_best_only, whose price "
                "holds for repetitions of one mechanism",
                "+sweeps=tune_wisconsin_private or +sweeps=tune_higgs_private, or a space of "
                "learning rates, clip norms and momentum; else tuning.search_price.scheme=adaptive",
            )


def _releases(config: CellConfig) -> Hashable:
    """What decides the releases of a cell whose noise is calibrated."""
    algorithm, rounds = config.algorithm, config.federation.rounds
    own = {k: v for k, v in to_plain(config)["algorithm"].items() if k in _RELEASING}
    steps = 0
    if isinstance(algorithm, DpsgdConf):
        steps = dpsgd_steps(config.federation.local_epochs, algorithm.sampling_rate)
    return algorithm.name, str(own), strengths(config.schedule, rounds), steps


def _group_combinations(space: SearchSpace) -> Iterable[dict[str, Value]]:
    groups = [p for p in space if p.choices and "." not in p.key]
    for number, values in enumerate(product(*(p.choices for p in groups))):
        if number == _MOST_COMBINATIONS:
            return
        settings = {p.key: value for p, value in zip(groups, values, strict=True)}
        yield {key: v for key, v in settings.items() if _exists(space, key, settings)}

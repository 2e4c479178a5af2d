"""What a study searches: configuration keys, each with its values, as Hydra overrides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fedprivacy.errors import ConfigError

Value = float | int | str | bool | None

EPSILON = "epsilon"
RATE = "federation.lr"
"""The budget of a trial, where the mode searches it."""

_FIXED = ("seed", "device", "tuning", "hydra", "tracking", "sweep", "engine", "privacy", "audit")
_FIXED_NODES = (*_FIXED, "collapse", "grids", "dataset")
_NOISE = ("algorithm.noise_multiplier", "algorithm.target_epsilon")
_FIX = "write {low: 0.01, high: 1, log: true} or {choices: [a, b]}"


class Suggester(Protocol):
    """What picks values; an Optuna trial is one."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int: ...

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None, log: bool
    ) -> float: ...


@dataclass(frozen=True)
class Parameter:
    """One key and the values it may take.

    Attributes:
        key: a configuration key or group, as before the ``=`` of an override.
        choices: the values, if there is a list of them.
        low: smallest value, otherwise.
        high: largest value.
        step: distance of the values; None: any value.
        log: whether values are spread evenly by their logarithm.
        whole: whether values are whole numbers.
        when: the parameter exists only where these other parameters have one of these values.
    """

    key: str
    choices: tuple[Value, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    whole: bool = False
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    def suggest(self, trial: Suggester) -> Value:
        """A value for the trial."""
        if self.choices:
            chosen: Value = trial.suggest_categorical(self.key, list(self.choices))
            return chosen
        if self.whole:
            low, high = int(self.low), int(self.high)
            return trial.suggest_int(self.key, low, high, step=int(self.step or 1), log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)

    def contains(self, value: object) -> bool:
        """Whether a trial may have this value."""
        if self.choices:
            return any(value == choice for choice in self.choices)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if not self.low <= value <= self.high or (self.whole and value != int(value)):
            return False
        if self.step is None:
            return True
        steps = (value - self.low) / self.step
        return math.isclose(steps, round(steps), abs_tol=1e-9)

    def nearest(self, value: float) -> Value:
        """The allowed value that is nearest to a number."""
        if self.choices:
            numbers = [c for c in self.choices if isinstance(c, int | float)]
            return min(numbers, key=lambda c: abs(c - value), default=self.choices[0])
        inside = min(max(value, self.low), self.high)
        if self.step is not None:
            inside = self.low + round((inside - self.low) / self.step) * self.step
        return round(inside) if self.whole else inside

    def exists(self, settings: Mapping[str, Value]) -> bool:
        """Whether the parameter has a meaning under the other settings."""
        return all(settings.get(key) in values for key, values in self.when.items())

    def ends(self) -> tuple[Value, ...]:
        """The values that decide whether the whole range is allowed."""
        if self.choices:
            return self.choices
        return (self.nearest(self.low), self.nearest(self.high))

    def to_json(self) -> dict[str, Any]:
        """The parameter as JSON values, for the study's record."""
        when = {key: list(values) for key, values in self.when.items()}
        if self.choices:
            return {"choices": list(self.choices), "when": when}
        return {
            "low": self.low,
            "high": self.high,
            "step": self.step,
            "log": self.log,
            "whole": self.whole,
            "when": when,
        }


@dataclass(frozen=True)
class SearchSpace:
    """All parameters, those that others depend on first."""

    parameters: tuple[Parameter, ...]

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.parameters)

    def get(self, key: str) -> Parameter | None:
        """The parameter of that key."""
        return next((p for p in self.parameters if p.key == key), None)

    def suggest(self, trial: Suggester) -> dict[str, Value]:
        """The settings of a trial: one value for each parameter that exists in it."""
        settings: dict[str, Value] = {}
        for parameter in self.parameters:
            if parameter.exists(settings):
                settings[parameter.key] = parameter.suggest(trial)
        return settings

    def contains(self, settings: Mapping[str, object]) -> bool:
        """Whether a trial may have exactly these settings."""
        plain: dict[str, Any] = dict(settings)
        wanted = {p.key for p in self.parameters if p.exists(plain)}
        return wanted == plain.keys() and all(
            p.contains(plain[p.key]) for p in self.parameters if p.key in wanted
        )


def read_space(
    declared: Mapping[str, Any], whole_keys: frozenset[str] = frozenset(), *, noise: bool = False
) -> SearchSpace:
    """The search space that ``tuning.space`` declares.

    Args:
        declared: by key: ``{low, high, log, step}`` or ``{choices}``, and ``when``.
        whole_keys: keys whose configuration is a whole number.
        noise: whether noise may be searched, which a calibrated study sets itself.

    Raises:
        ConfigError: nothing is searched, a key is not one to search, or values make no range.
    """
    if not declared:
        raise ConfigError(
            "tuning.space",
            dict(declared),
            "at least one key to search",
            "tune a ready study, for example +sweeps=tune_higgs, or " + _FIX,
        )
    parameters = [
        _read_parameter(str(key), value, str(key) in whole_keys, noise)
        for key, value in declared.items()
    ]
    known = {p.key: p for p in parameters}
    for parameter in parameters:
        _check_when(parameter, known)
    # A group before the keys inside it, whatever decides a parameter before the parameter, and the
    # learning rate last: what it should be depends on all others, see ``reach_sampler``.
    ordered = sorted(parameters, key=lambda p: (p.key == RATE, _depth(p, known), "." in p.key))
    return SearchSpace(tuple(ordered))


def _depth(parameter: Parameter, known: Mapping[str, Parameter]) -> int:
    return max((1 + _depth(known[key], known) for key in parameter.when), default=0)


def _read_parameter(key: str, declared: Any, whole: bool, noise: bool) -> Parameter:
    where = f"tuning.space.{key}"
    _check_key(where, key, noise)
    if not isinstance(declared, Mapping):
        raise ConfigError(where, declared, "a mapping", _FIX)
    unknown = declared.keys() - {"choices", "low", "high", "log", "step", "when"}
    if unknown:
        raise ConfigError(where, sorted(unknown), "low, high, log, step, choices and when", _FIX)
    when = _read_when(where, declared.get("when") or {})
    if "choices" in declared:
        return Parameter(key, choices=_read_choices(where, declared), when=when)
    return _read_range(where, key, declared, whole, when)


def _check_key(where: str, key: str, noise: bool) -> None:
    if key in _NOISE and not noise:
        raise ConfigError(
            where,
            key,
            "any key but the noise: a study calibrates it to its budget, so that noise and epsilon "
            "are never searched together",
            "drop it from tuning.space; set tuning.budget, or tuning.epsilon_range",
        )
    if key.startswith("dataset.training."):
        return
    if key.partition(".")[0] in _FIXED_NODES:
        raise ConfigError(
            where,
            key,
            "a key of algorithm, schedule, federation, model or dataset.training: the others say "
            "what is measured, for whom and where, and stay the same in a study",
            "drop it from tuning.space; type it after the command instead",
        )


def _read_choices(where: str, declared: Mapping[str, Any]) -> tuple[Value, ...]:
    choices = declared["choices"]
    if not isinstance(choices, Sequence) or isinstance(choices, str) or not choices:
        raise ConfigError(where, choices, "a list of at least one value", _FIX)
    for choice in choices:
        if choice is not None and not isinstance(choice, str | int | float | bool):
            raise ConfigError(
                where, choice, "numbers, words, true, false or null", "quote a list: '[64,64]'"
            )
    if len({(type(choice), choice) for choice in choices}) < len(choices):
        raise ConfigError(where, list(choices), "values that differ", "name each value once")
    return tuple(choices)


def _read_range(
    where: str, key: str, declared: Mapping[str, Any], whole: bool, when: Mapping[str, Any]
) -> Parameter:
    low, high = declared.get("low"), declared.get("high")
    for value in (low, high):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(where, value, "two numbers, low and high", _FIX)
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    step, log = declared.get("step"), bool(declared.get("log", False))
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(where, [low, high], "finite, low below high", _FIX)
    if log and low <= 0:
        raise ConfigError(where, low, "above 0 with log: true", "raise low, or drop log")
    if step is not None and (log or not step > 0):
        raise ConfigError(where, step, "above 0, and only without log", "drop step, or log")
    if whole and not all(float(v).is_integer() for v in (low, high, step or 1)):
        raise ConfigError(where, [low, high, step], f"whole numbers, as {key} is one", _FIX)
    return Parameter(key, (), float(low), float(high), step, log, whole, when)


def _read_when(where: str, declared: Any) -> dict[str, tuple[Value, ...]]:
    if not isinstance(declared, Mapping):
        raise ConfigError(where, declared, "when: a mapping from key to value", "when: {a: b}")
    return {
        str(key): tuple(value) if isinstance(value, Sequence) and not isinstance(value, str)
        else (value,)
        for key, value in declared.items()
    }  # fmt: skip


def _check_when(parameter: Parameter, known: Mapping[str, Parameter]) -> None:
    where = f"tuning.space.{parameter.key}"
    seen = {parameter.key}
    pending = list(parameter.when.items())
    while pending:
        key, values = pending.pop()
        other = known.get(key)
        if other is None or not all(other.contains(value) for value in values):
            raise ConfigError(
                f"{where}.when",
                {key: list(values)},
                "values of another key of tuning.space",
                "when names a searched key and values that it may take",
            )
        if key in seen:
            raise ConfigError(f"{where}.when", key, "no circle", "drop one of the conditions")
        seen.add(key)
        pending += other.when.items()

"""Schedules: in which rounds a protection acts, and how strongly."""

from __future__ import annotations

from collections.abc import Callable

from fedprivacy.config.schema import ScheduleConf
from fedprivacy.errors import ConfigError

Rule = Callable[[int, int, ScheduleConf], bool]


def _every_nth(round_number: int, _rounds: int, conf: ScheduleConf) -> bool:
    return round_number > conf.offset and (round_number - 1 - conf.offset) % conf.n == 0


RULES: dict[str, Rule] = {
    "every_round": lambda _round, _rounds, _conf: True,
    "first_round": lambda round_number, _rounds, _conf: round_number == 1,
    "last_round": lambda round_number, rounds, _conf: round_number == rounds,
    "every_nth": _every_nth,
}


def strengths(conf: ScheduleConf, rounds: int) -> tuple[float | None, ...]:
    """Strength of the protection in rounds 1..``rounds``; None where it is off.

    The k-th protected round (k = 0, 1, ...) has strength ``decay ** k``.

    Raises:
        ConfigError: the schedule is unknown or protects no round of the run.
    """
    if conf.name not in RULES:
        raise ConfigError("schedule", conf.name, f"one of {sorted(RULES)}", "choose one of them")
    rule = RULES[conf.name]
    protected = [rule(number, rounds, conf) for number in range(1, rounds + 1)]
    if not any(protected):
        raise ConfigError(
            "schedule.offset",
            conf.offset,
            f"a schedule that protects at least one of the {rounds} rounds",
            f"set schedule.offset below {rounds}, or algorithm=none to run without protection",
        )
    result: list[float | None] = []
    k = 0
    for on in protected:
        result.append(conf.decay**k if on else None)
        k += on
    return tuple(result)

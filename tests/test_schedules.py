from __future__ import annotations

import pytest
from contracts.schedule import ScheduleContract
from hypothesis import given
from hypothesis import strategies as st

from fedprivacy.config.schema import ScheduleConf
from fedprivacy.errors import ConfigError
from fedprivacy.schedules import RULES, strengths

NO = None


@pytest.mark.parametrize(
    ("conf", "rounds", "expected"),
    [
        (ScheduleConf("every_round"), 3, (1, 1, 1)),
        (ScheduleConf("first_round"), 3, (1, NO, NO)),
        (ScheduleConf("last_round"), 3, (NO, NO, 1)),
        (ScheduleConf("last_round"), 1, (1,)),
        (ScheduleConf("every_nth", n=2), 5, (1, NO, 1, NO, 1)),
        (ScheduleConf("every_nth", n=2, offset=1), 5, (NO, 1, NO, 1, NO)),
        (ScheduleConf("every_nth", n=3, offset=1), 6, (NO, 1, NO, NO, 1, NO)),
        (ScheduleConf("every_nth", n=2, offset=3), 6, (NO, NO, NO, 1, NO, 1)),
        (ScheduleConf("every_nth", n=1, offset=0), 3, (1, 1, 1)),
        (ScheduleConf("every_nth", n=100), 3, (1, NO, NO)),
        (ScheduleConf("every_round", decay=0.5), 4, (1, 0.5, 0.25, 0.125)),
        (ScheduleConf("every_nth", decay=0.5, n=2), 5, (1, NO, 0.5, NO, 0.25)),
        (ScheduleConf("every_nth", decay=0.5, n=2, offset=1), 5, (NO, 1, NO, 0.5, NO)),
        (ScheduleConf("first_round", decay=0.5), 2, (1, NO)),
        (ScheduleConf("last_round", decay=0.5), 2, (NO, 1)),
    ],
)
def test_strengths(conf: ScheduleConf, rounds: int, expected: tuple[float | None, ...]) -> None:
    assert strengths(conf, rounds) == expected


@given(
    st.sampled_from(sorted(RULES)),
    st.integers(1, 60),
    st.floats(0.01, 1),
    st.integers(1, 12),
    st.integers(0, 12),
)
def test_the_kth_protected_round_has_decay_to_the_k(
    name: str, rounds: int, decay: float, n: int, offset: int
) -> None:
    conf = ScheduleConf(name, decay=decay, n=n, offset=offset)
    if name == "every_nth" and offset >= rounds:
        with pytest.raises(ConfigError):
            strengths(conf, rounds)
        return
    found = strengths(conf, rounds)
    assert len(found) == rounds
    assert [s for s in found if s is not None] == [
        decay**k for k in range(sum(s is not None for s in found))
    ]
    if name == "every_nth":
        on = [number for number, s in enumerate(found, start=1) if s is not None]
        assert on == list(range(offset + 1, rounds + 1, n))


def test_a_schedule_that_protects_nothing_is_refused_with_a_way_out() -> None:
    with pytest.raises(ConfigError) as caught:
        strengths(ScheduleConf("every_nth", n=2, offset=10), 10)
    assert caught.value.key == "schedule.offset"
    assert caught.value.value == 10
    assert "below 10" in caught.value.fix
    assert "algorithm=none" in caught.value.fix


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ConfigError, match="every_nth"):
        strengths(ScheduleConf("now_and_then"), 3)


def contract(conf: ScheduleConf) -> type:
    class OfOne(ScheduleContract):
        @pytest.fixture
        def conf(self) -> ScheduleConf:
            return conf

    return OfOne


TestEveryRound = contract(ScheduleConf("every_round"))
TestFirstRound = contract(ScheduleConf("first_round"))
TestLastRound = contract(ScheduleConf("last_round"))
TestEveryNth = contract(ScheduleConf("every_nth", n=3, offset=1))


def test_every_rule_is_held_to_the_contract() -> None:
    tested = {name.removeprefix("Test").lower() for name in globals() if name.startswith("Test")}
    assert {name.replace("_", "") for name in RULES} == tested

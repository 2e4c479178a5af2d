"""What every schedule owes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedprivacy.config.schema import ScheduleConf
from fedprivacy.errors import ConfigError
from fedprivacy.schedules import strengths


class ScheduleContract:
    """Subclasses say which schedule: a fixture ``conf``, valid for 12 rounds."""

    @pytest.mark.parametrize("rounds", [1, 2, 12])
    def test_one_strength_for_each_round_and_one_at_least_is_on(
        self, conf: ScheduleConf, rounds: int
    ) -> None:
        found = strengths(replace(conf, offset=0), rounds)
        assert len(found) == rounds
        assert any(strength is not None for strength in found)

    def test_the_first_protected_round_has_full_strength(self, conf: ScheduleConf) -> None:
        on = [s for s in strengths(replace(conf, decay=0.5), 12) if s is not None]
        assert on == [0.5**k for k in range(len(on))]

    def test_without_decay_every_strength_is_one(self, conf: ScheduleConf) -> None:
        assert set(strengths(replace(conf, decay=1.0), 12)) <= {1.0, None}

    def test_decay_does_not_move_the_protected_rounds(self, conf: ScheduleConf) -> None:
        plain, decaying = (strengths(replace(conf, decay=d), 12) for d in (1.0, 0.9))
        assert [s is None for s in plain] == [s is None for s in decaying]

    def test_it_is_a_function_of_its_settings(self, conf: ScheduleConf) -> None:
        assert strengths(conf, 12) == strengths(replace(conf), 12)

    def test_a_name_that_is_none_is_refused(self, conf: ScheduleConf) -> None:
        with pytest.raises(ConfigError, match="one of"):
            strengths(replace(conf, name=f"{conf.name}_or_so"), 12)

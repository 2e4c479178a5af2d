from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from dp_accounting import dp_event as dp

from fedprivacy.accounting.events import Event
from fedprivacy.errors import AccountingError

FULL = Event(
    round=3,
    site="Guy's",
    mechanism="dpsgd",
    unit="record",
    neighbouring="zero_out",
    view="server_updates",
    dp_event=dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(0.1, dp.GaussianDpEvent(1 / 3)), 7),
    protected=True,
    strength=0.9**5,
    reason="",
    details={"sigma": 1 / 3, "steps": np.int64(7), "engine": "loop"},
)


def test_json_round_trip_is_exact():
    again = Event.from_json(json.loads(json.dumps(FULL.to_json(), allow_nan=False)))
    assert again == FULL
    assert again.details["sigma"].hex() == (1 / 3).hex()
    assert hash(again) == hash(FULL)


def test_pickle_round_trip():
    assert pickle.loads(pickle.dumps(FULL)) == FULL


def test_an_event_cannot_be_changed():
    with pytest.raises(AttributeError):
        FULL.round = 4
    with pytest.raises(TypeError):
        FULL.details["sigma"] = 9.0


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("unit", "person", "event.unit='person'"),
        ("neighbouring", "swap", "event.neighbouring='swap'"),
        ("view", "all", "event.view='all'"),
        ("round", 0, "event.round=0"),
        ("round", 1.0, "event.round=1.0"),
        ("site", "", "event.site is empty"),
        ("protected", False, "has no strength"),
        ("dp_event", dp.UnsupportedDpEvent(), "Unsupported"),
        ("details", {"x": float("nan")}, "not finite"),
        ("details", {"x": [1]}, "neither number nor text"),
    ],
)
def test_contradictions_are_refused(field, value, words):
    fields = {name: getattr(FULL, name) for name in FULL.__dataclass_fields__}
    with pytest.raises(AccountingError, match=words):
        Event(**{**fields, field: value})


@pytest.mark.parametrize("change", [{"dp_event": 1}, {"extra": 1}, {"dp_event": {"type": "No"}}])
def test_json_of_another_origin_is_refused(change):
    with pytest.raises(AccountingError):
        Event.from_json({**FULL.to_json(), **change})
    incomplete = FULL.to_json()
    del incomplete["site"]
    with pytest.raises(AccountingError, match="site"):
        Event.from_json(incomplete)

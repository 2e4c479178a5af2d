from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from dp_accounting import dp_event as dp

from fedprivacy.accounting import events
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


def test_a_long_run_holds_equal_parts_once():
    texts = [json.dumps({**FULL.to_json(), "round": number}) for number in (1, 2)]
    one, other = (Event.from_json(json.loads(text)) for text in texts)
    for part in ("site", "mechanism", "unit", "view", "dp_event", "details"):
        assert getattr(one, part) is getattr(other, part)
    assert not hasattr(one, "__dict__")


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (1, True), (0.0, -0.0), ("1", 1)])
def test_details_that_are_written_differently_stay_so(one, other):
    made = [replace(FULL, details={"x": value}) for value in (one, other)]
    written = [json.dumps(event.to_json()["details"]) for event in made]
    assert written == [json.dumps({"x": value}) for value in (one, other)]


def test_what_is_shared_does_not_follow_what_it_was_made_from():
    details = {"x": 1}
    event = replace(FULL, details=details)
    details["x"] = 2
    assert event.details == {"x": 1} == replace(FULL, details={"x": 1}).details


def test_no_more_details_are_shared_than_fit():
    for number in range(3000):
        assert replace(FULL, details={"number": number}).details == {"number": number}
    assert len(events._shared) <= events._MOST_SHARED


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

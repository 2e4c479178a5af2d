from __future__ import annotations

import json

import numpy as np
import pytest
from dp_accounting import dp_event as dp
from hypothesis import given
from hypothesis import strategies as st

from fedprivacy.accounting.dp_events import SUPPORTED, canonical, from_json, to_json
from fedprivacy.errors import AccountingError

positive = st.floats(min_value=1e-300, max_value=1e300)
shares = st.floats(min_value=0, max_value=1)
counts = st.integers(min_value=1, max_value=10**9)
leaves = st.one_of(
    st.just(dp.NoOpDpEvent()),
    st.just(dp.NonPrivateDpEvent()),
    st.builds(dp.GaussianDpEvent, positive),
    st.builds(dp.LaplaceDpEvent, positive),
    st.builds(dp.RandomizedResponseDpEvent, shares, counts),
    st.builds(dp.MixtureOfGaussiansDpEvent, positive, st.lists(positive), st.lists(shares)),
    st.builds(dp.TruncatedSubsampledGaussianDpEvent, counts, shares, counts, positive),
)
any_event = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(dp.PoissonSampledDpEvent, shares, inner),
        st.builds(dp.SelfComposedDpEvent, inner, counts),
        st.builds(dp.ComposedDpEvent, st.lists(inner, max_size=3)),
    ),
    max_leaves=5,
)


@given(any_event)
def test_json_loses_nothing(event):
    text = json.dumps(to_json(event), allow_nan=False)
    assert from_json(json.loads(text)) == canonical(event)


def test_json_keeps_every_bit_of_a_float():
    event = dp.PoissonSampledDpEvent(0.1 + 0.2, dp.GaussianDpEvent(1 / 3))
    read = from_json(json.loads(json.dumps(to_json(event))))
    assert read.sampling_probability.hex() == (0.1 + 0.2).hex()
    assert read.event.noise_multiplier.hex() == (1 / 3).hex()


def test_every_supported_event_is_round_tripped_here():
    kinds = {type(leaf) for leaf in _one_of_each()}
    assert kinds == set(SUPPORTED.values())
    for event in _one_of_each():
        assert from_json(to_json(event)) == canonical(event)


def _one_of_each():
    gaussian = dp.GaussianDpEvent(1.5)
    return [
        dp.NoOpDpEvent(),
        dp.NonPrivateDpEvent(),
        gaussian,
        dp.LaplaceDpEvent(2.0),
        dp.RandomizedResponseDpEvent(0.5, 3),
        dp.MixtureOfGaussiansDpEvent(1.0, [0, 1, 2], [0.2, 0.6, 0.2]),
        dp.TruncatedSubsampledGaussianDpEvent(4, 0.5, 2, 1.0),
        dp.PoissonSampledDpEvent(0.2, gaussian),
        dp.ComposedDpEvent([gaussian, dp.NoOpDpEvent()]),
        dp.SelfComposedDpEvent(gaussian, 3),
    ]


def test_numpy_numbers_and_lists_become_plain_and_hashable():
    event = canonical(
        dp.MixtureOfGaussiansDpEvent(np.float32(0.5), range(2), np.array([0.25, 0.75]))
    )
    assert event == dp.MixtureOfGaussiansDpEvent(0.5, (0, 1), (0.25, 0.75))
    assert type(event.standard_deviation) is float
    assert type(event.sampling_probs[0]) is float
    hash(event)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (dp.UnsupportedDpEvent(), "UnsupportedDpEvent cannot be entered"),
        (dp.SampledWithoutReplacementDpEvent(10, 2, dp.GaussianDpEvent(1.0)), "Without"),
        (dp.SelfComposedDpEvent(dp.UnsupportedDpEvent(), 2), "UnsupportedDpEvent"),
        (dp.GaussianDpEvent(float("nan")), "noise_multiplier=nan"),
        (dp.GaussianDpEvent(float("inf")), "noise_multiplier=inf"),
        (dp.GaussianDpEvent(-1.0), "from 0 up"),
        (dp.GaussianDpEvent("1"), "is not a number"),
        (dp.PoissonSampledDpEvent(1.5, dp.GaussianDpEvent(1.0)), "between 0 and 1"),
        (dp.SelfComposedDpEvent(dp.GaussianDpEvent(1.0), 2.5), "whole number"),
        (dp.SelfComposedDpEvent(dp.GaussianDpEvent(1.0), True), "is not a number"),
    ],
)
def test_what_has_no_price_is_refused(event, words):
    with pytest.raises(AccountingError, match=words):
        canonical(event)


@pytest.mark.parametrize(
    "data", [{}, {"type": "Gauss"}, {"type": "GaussianDpEvent", "sigma": 1.0}, {"type": ["x"]}]
)
def test_json_of_another_origin_is_refused(data):
    with pytest.raises(AccountingError):
        from_json(data)


def test_what_was_read_before_is_not_what_looks_equal():
    """1, 1.0 and True compare equal; a count must be a whole number all the same."""
    inner = {"type": "GaussianDpEvent", "noise_multiplier": 1.0}
    counted = {"type": "SelfComposedDpEvent", "event": inner}
    assert from_json({**counted, "count": 1}).count == 1
    for wrong in (1.0, True):
        with pytest.raises(AccountingError):
            from_json({**counted, "count": wrong})
    whole = from_json({"type": "GaussianDpEvent", "noise_multiplier": 1})
    assert type(whole.noise_multiplier) is int
    assert type(from_json(inner).noise_multiplier) is float
    assert from_json(inner) is from_json(dict(inner)), "read once, checked once"


def test_an_event_at_the_place_of_one_that_is_gone_is_checked():
    for _ in range(50):
        assert canonical(dp.GaussianDpEvent(np.float64(2.0))) == dp.GaussianDpEvent(2.0)
        with pytest.raises(AccountingError):
            canonical(dp.GaussianDpEvent(-1.0))

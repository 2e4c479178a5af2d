"""Coverage of records: against sorting every record's epsilon by itself."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprivacy.accounting.coverage import QUANTILES, coverage

SITES = st.dictionaries(
    st.sampled_from("abcde"),
    st.tuples(st.floats(0, 50) | st.just(math.inf), st.integers(1, 30)),
    min_size=1,
)


@given(SITES)
def test_as_every_record_by_itself(sites: dict[str, tuple[float, int]]) -> None:
    found = coverage({k: e for k, (e, _) in sites.items()}, {k: n for k, (_, n) in sites.items()})
    every = sorted(epsilon for epsilon, n in sites.values() for _ in range(n))
    finite = [epsilon for epsilon in every if math.isfinite(epsilon)]
    assert found["coverage_records"] == pytest.approx(len(finite) / len(every))
    for share in QUANTILES:
        value = every[math.ceil(share * len(every) - 1e-9) - 1]
        stated = found["epsilon_record_quantiles"][f"{share:g}"]
        assert stated == (value if math.isfinite(value) else None)


def test_a_site_without_a_bound_is_unprotected() -> None:
    found = coverage({"a": 1.0}, {"a": 3, "b": 1})
    assert found["coverage_records"] == 0.75
    assert found["epsilon_record_quantiles"] == {"0.25": 1.0, "0.5": 1.0, "0.75": 1.0, "1": None}

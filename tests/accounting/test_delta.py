from __future__ import annotations

import pytest

from fedprivacy.accounting.delta import default_delta, resolve_delta
from fedprivacy.errors import AccountingError, ConfigError


def test_default_is_the_smaller_of_the_two():
    assert default_delta(100) == 1e-5
    assert default_delta(10_000) == 1e-5
    assert default_delta(100_000) == 1e-6
    assert default_delta(1) == 1e-5
    with pytest.raises(AccountingError):
        default_delta(0)


def test_a_smaller_one_is_taken():
    assert resolve_delta(None, 100_000) == 1e-6
    assert resolve_delta(1e-7, 100_000) == 1e-7
    assert resolve_delta(1e-5, 100) == 1e-5


@pytest.mark.parametrize("value", [1e-5, 0.0, -1.0, 1.0, float("nan"), float("inf")])
def test_a_larger_one_is_refused_with_the_way_out(value):
    with pytest.raises(ConfigError, match=r"set privacy\.delta=1e-06 or less") as caught:
        resolve_delta(value, 100_000)
    assert caught.value.key == "privacy.delta"

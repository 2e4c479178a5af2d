"""Filters that are called as functions, by whoever uses the library alone, fail closed as well."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedprivacy.config.schema import SvtConf, SvtExactConf, SvtFlare28Conf
from fedprivacy.errors import FedPrivacyError, ProtectionError
from fedprivacy.mechanisms.central_gaussian import CentralGaussian
from fedprivacy.mechanisms.gaussian import gaussian_filter
from fedprivacy.mechanisms.percentile import percentile_filter
from fedprivacy.mechanisms.svt import svt_filter
from fedprivacy.mechanisms.svt_exact import exact_filter
from fedprivacy.mechanisms.svt_flare28 import flare28_filter
from fedprivacy.training.randomness import Streams

Filter = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


FILTERS: dict[str, Filter] = {
    "gaussian": lambda w: gaussian_filter(w, 0.1, 95.0, rng())[0],
    "gaussian without noise": lambda w: gaussian_filter(w, 0.0, 95.0, rng())[0],
    "percentile": lambda w: percentile_filter(w, 10.0, 0.01, 5),
    "svt": lambda w: svt_filter(w, SvtConf(), 5, 1e-6, rng()),
    "svt_flare28": lambda w: flare28_filter(w, SvtFlare28Conf(), 5, 1e-6, rng()),
    "svt_exact": lambda w: exact_filter(w, SvtExactConf(), 1.0, rng()),
    "svt_exact laplace": lambda w: exact_filter(w, SvtExactConf(noise="laplace"), 1.0, rng()),
}
UNSOUND = {
    "nan": np.array([0.1, math.nan, 0.2]),
    "infinite": np.array([0.1, math.inf, 0.2]),
    "0-d": np.array(0.5),
    "empty": np.array([]),
    "2-d": np.ones((2, 3)),
    "words": np.array(["a", "b"]),
    "complex": np.array([1j, 2.0]),
    "objects": np.array([0.1, None], dtype=object),
    "a list": [0.1, 0.2],
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("unsound", UNSOUND)
@pytest.mark.parametrize("name", FILTERS)
def test_unsound_updates_are_refused(name: str, unsound: str) -> None:
    with pytest.raises(ProtectionError, match="nothing was sent"):
        FILTERS[name](UNSOUND[unsound])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["gaussian", "svt_exact", "svt_exact laplace"])
def test_noise_on_whole_numbers_is_not_cut_off(name: str) -> None:
    whole = np.arange(1, 200)
    filtered = FILTERS[name](whole)  # type: ignore[arg-type]
    assert filtered.dtype == np.float64
    moved = filtered[filtered != 0]
    assert np.any(moved != np.round(moved))
    np.testing.assert_array_equal(filtered, FILTERS[name](whole.astype(float)))


@pytest.mark.parametrize("steps", [0, -1, math.nan, math.inf])
@pytest.mark.parametrize("name", ["percentile", "svt", "svt_flare28"])
def test_steps_that_nothing_can_be_divided_by_are_refused(name: str, steps: float) -> None:
    update = np.linspace(-1, 1, 50)
    calls: dict[str, Callable[[], object]] = {
        "percentile": lambda: percentile_filter(update, 10.0, 0.01, steps),  # type: ignore[arg-type]
        "svt": lambda: svt_filter(update, SvtConf(), steps, 1e-6, rng()),  # type: ignore[arg-type]
        "svt_flare28": lambda: flare28_filter(
            update,
            SvtFlare28Conf(),
            steps,
            1e-6,
            rng(),  # type: ignore[arg-type]
        ),
    }
    with pytest.raises(ProtectionError, match="steps="):
        calls[name]()


@pytest.mark.parametrize(
    ("updates", "strength", "clip"),
    [
        ([], 1.0, 1.0),
        ([torch.ones(3), torch.ones(4)], 1.0, 1.0),
        ([torch.ones(3)], math.nan, 1.0),
        ([torch.ones(3)], -1.0, 1.0),
        ([torch.ones(3)], 1.0, math.nan),
        ([torch.ones(3)], 1.0, 0.0),
        ([torch.ones(3)], 1.0, math.inf),
        ([torch.tensor([math.nan, 1.0])], 1.0, 1.0),
    ],
)
def test_the_server_publishes_no_unsound_average(
    updates: list[torch.Tensor], strength: float, clip: float
) -> None:
    with pytest.raises(FedPrivacyError):
        CentralGaussian(1.0, 1.0).average(updates, strength, clip, Streams(0, "seeded", 1, -1))

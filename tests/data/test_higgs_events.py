"""The processes keep the invariants of their decay chains, and the selection is applied."""

from __future__ import annotations

import numpy as np
import pytest

from fedprivacy.data.higgs_events import (
    MAX_ETA,
    MIN_PT,
    Partons,
    background,
    breit_wigner,
    measured,
    signal,
)
from fedprivacy.data.higgs_kinematics import M_TOP, M_W, mass

N = 4_000


@pytest.fixture(scope="module")
def signal_partons() -> Partons:
    return signal(N, np.random.default_rng(0))


@pytest.fixture(scope="module")
def background_partons() -> Partons:
    return background(N, np.random.default_rng(1))


@pytest.fixture(scope="module")
def columns() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    return {f.__name__: measured(f(60_000, rng), rng) for f in (signal, background)}


def w_bosons(partons: Partons) -> tuple[np.ndarray, np.ndarray]:
    return partons.lepton + partons.neutrino, partons.jets[:, 2] + partons.jets[:, 3]


def density(values: np.ndarray, low: float, high: float) -> float:
    return float(((values > low) & (values < high)).mean()) / (high - low)


@pytest.mark.parametrize("name", ["signal_partons", "background_partons"])
def test_w_bosons_have_the_w_mass_and_the_event_balances(name: str, request) -> None:
    partons: Partons = request.getfixturevalue(name)
    for w in w_bosons(partons):
        assert np.median(mass(w)) == pytest.approx(M_W, abs=0.2)
        assert mass(w).min() > 59.9
        assert mass(w).max() < 100.1
    everything = partons.lepton + partons.neutrino + partons.jets.sum(1)
    np.testing.assert_allclose(everything[:, 1:3], 0.0, atol=1e-8)


def test_signal_chain_goes_through_h0_h_plus_and_the_light_higgs(signal_partons) -> None:
    higgs = signal_partons.jets[:, 0] + signal_partons.jets[:, 1]
    np.testing.assert_allclose(mass(higgs), 125.0, rtol=1e-9)
    leptonic, hadronic = w_bosons(signal_partons)
    from_leptonic, from_hadronic = mass(leptonic + higgs), mass(hadronic + higgs)
    heavy = mass(leptonic + hadronic + higgs)
    assert np.median(heavy) == pytest.approx(427, abs=6)
    assert ((heavy > 364.9) & (heavy < 500.1)).all()
    # One of the two W comes from H+, in either role.
    in_window = [(m > 274.9) & (m < 375.1) for m in (from_leptonic, from_hadronic)]
    assert (in_window[0] | in_window[1]).all()
    near = [np.abs(m - 325) < 15 for m in (from_leptonic, from_hadronic)]
    assert near[0].mean() == pytest.approx(near[1].mean(), abs=0.04)
    assert (near[0] | near[1]).mean() > 0.6


def test_background_has_two_tops(background_partons) -> None:
    for b, w in enumerate(w_bosons(background_partons)):
        top = mass(background_partons.jets[:, b] + w)
        assert np.median(top) == pytest.approx(M_TOP, abs=0.1)
        assert ((top > 149.9) & (top < 195.1)).all()


def test_selection_is_applied_and_jets_are_ordered(columns) -> None:
    for events in columns.values():
        pt, eta, tags = events[:, 5:21:4], events[:, 6:21:4], events[:, 8:21:4]
        assert min(pt.min(), events[:, 0].min()) > MIN_PT
        assert max(np.abs(eta).max(), np.abs(events[:, 1]).max()) < MAX_ETA
        assert (np.diff(pt, axis=1) <= 0).all()
        assert ((tags > 0).sum(1) >= 2).all()
        assert set(np.unique(tags)) == {0.0, 1.0, 2.0}
        assert np.isfinite(events).all()
        assert 0.2 < len(events) / 60_000 < 0.5


def test_measured_masses_peak_where_the_particles_are(columns) -> None:
    for events in columns.values():
        m_jj, m_lv = events[:, 21], events[:, 23]
        assert density(m_jj, 65, 95) > 1.5 * density(m_jj, 110, 140)
        assert density(m_jj, 65, 95) > 1.5 * density(m_jj, 25, 55)
        assert np.median(m_lv) == pytest.approx(M_W, abs=0.5)
    higgs = [columns[name][:, 25] for name in ("signal", "background")]
    assert density(higgs[0], 95, 135) > 1.5 * density(higgs[1], 95, 135)
    heavy = columns["signal"][:, 27]
    assert density(heavy, 380, 460) > 2 * density(heavy, 500, 580)
    top = columns["background"][:, 22]
    assert density(top, 150, 190) > 2 * density(top, 220, 260)


def test_directions_carry_no_azimuthal_preference(columns) -> None:
    for events in columns.values():
        for column in (2, 4, 7, 11, 15, 19):
            assert events[:, column].std() == pytest.approx(np.pi / np.sqrt(3), rel=0.02)


def test_breit_wigner_quantiles_are_those_of_the_truncated_density() -> None:
    rng = np.random.default_rng(3)
    low, high, centre, width = 60.0, 100.0, 80.4, 2.1
    drawn = breit_wigner(centre, width, low, high, 50_000, rng)
    grid = np.linspace(low, high, 400_001)
    weight = np.cumsum(1 / ((grid - centre) ** 2 + width**2 / 4))
    for q in (0.05, 0.25, 0.5, 0.75, 0.95):
        expected = grid[np.searchsorted(weight, q * weight[-1])]
        assert np.mean(drawn < expected) == pytest.approx(q, abs=0.01)

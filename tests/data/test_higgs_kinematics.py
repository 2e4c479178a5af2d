"""Decays and derived masses against explicit matrices, roots and loops over events."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest

from fedprivacy.data import higgs_kinematics as k
from fedprivacy.data.higgs_events import background, measured, signal
from fedprivacy.data.higgs_kinematics import M_TOP, M_W

Vector = tuple[float, float, float, float]


def four(pt: float, eta: float, phi: float) -> Vector:
    pz = pt * math.sinh(eta)
    return math.sqrt(pt**2 + pz**2), pt * math.cos(phi), pt * math.sin(phi), pz


def total(*vectors: Vector) -> Vector:
    e, x, y, z = (sum(axis) for axis in zip(*vectors, strict=True))
    return e, x, y, z


def mass_of(*vectors: Vector) -> float:
    e, x, y, z = total(*vectors)
    return math.sqrt(max(e * e - x * x - y * y - z * z, 0.0))


def naive_masses(columns: np.ndarray) -> list[float]:
    """The seven masses of one event from its 21 measured columns, one object at a time."""
    lepton = four(*columns[:3])
    met_x, met_y = (columns[3] * f(columns[4]) for f in (math.cos, math.sin))
    jets = [four(*columns[5 + 4 * i : 8 + 4 * i]) for i in range(4)]
    tags = [columns[8 + 4 * i] for i in range(4)]
    by_tag = sorted(range(4), key=lambda i: (-tags[i], i))
    b1, b2, q1, q2 = (jets[i] for i in by_tag)

    # Neutrino: m(l + nu) = m(W) as a quadratic a pz^2 + b pz + c = 0.
    mu = M_W**2 / 2 + lepton[1] * met_x + lepton[2] * met_y
    a = lepton[0] ** 2 - lepton[3] ** 2
    b, c = -2 * mu * lepton[3], lepton[0] ** 2 * (met_x**2 + met_y**2) - mu**2
    root = cmath.sqrt(b * b - 4 * a * c)
    solutions = [(-b + sign * root) / (2 * a) for sign in (1, -1)]
    pz = min((s.real for s in solutions), key=abs)
    nu = (math.sqrt(met_x**2 + met_y**2 + pz**2), met_x, met_y, pz)

    pairings = [(b1, b2), (b2, b1)]
    had, lep = min(pairings, key=lambda pair: abs(mass_of(pair[0], q1, q2) - M_TOP))
    return [
        mass_of(q1, q2),
        mass_of(had, q1, q2),
        mass_of(lepton, nu),
        mass_of(lep, lepton, nu),
        mass_of(b1, b2),
        mass_of(b1, b2, lepton, nu),
        mass_of(b1, b2, q1, q2, lepton, nu),
    ]


@pytest.mark.parametrize("process", [signal, background])
def test_seven_masses_follow_from_the_measured_columns(process) -> None:
    columns = measured(process(400, np.random.default_rng(5)), np.random.default_rng(6))
    assert len(columns) > 50
    for event in columns[:50]:
        np.testing.assert_allclose(event[21:], naive_masses(event[:21]), rtol=1e-6)


def test_boost_equals_the_lorentz_matrix() -> None:
    rng = np.random.default_rng(0)
    parent_mass = 91.0
    momentum = np.array([30.0, -45.0, 120.0])
    energy = math.sqrt(parent_mass**2 + momentum @ momentum)
    beta, gamma = momentum / energy, energy / parent_mass
    matrix = np.eye(4)
    matrix[0, 0] = gamma
    matrix[0, 1:] = matrix[1:, 0] = gamma * beta
    matrix[1:, 1:] += (gamma - 1) * np.outer(beta, beta) / (beta @ beta)
    vectors = rng.normal(size=(5, 4)) + np.array([100, 0, 0, 0])
    parent = np.tile([energy, *momentum], (5, 1))
    found = k.boost(vectors, parent, np.full(5, parent_mass))
    np.testing.assert_allclose(found, vectors @ matrix.T, rtol=1e-12)


def test_boost_of_a_parent_at_rest_changes_nothing() -> None:
    vectors = np.array([[50.0, 1.0, 2.0, 3.0]])
    found = k.boost(vectors, np.array([[80.0, 0.0, 0.0, 0.0]]), np.array([80.0]))
    np.testing.assert_array_equal(found, vectors)


def test_two_body_decays_conserve_momentum_have_their_masses_and_no_direction() -> None:
    n, rng = 20_000, np.random.default_rng(1)
    m0, m1, m2 = np.full(n, 325.0), np.full(n, 80.0), np.full(n, 125.0)
    p = rng.normal(0, 100, (n, 3))
    parent = np.column_stack([np.sqrt(m0**2 + (p**2).sum(1)), p])
    first, second = k.two_body(parent, m0, m1, m2, rng)
    np.testing.assert_allclose(first + second, parent, atol=1e-9)
    np.testing.assert_allclose(k.mass(first), 80.0, rtol=1e-9)
    np.testing.assert_allclose(k.mass(second), 125.0, rtol=1e-9)
    back = parent * [1, -1, -1, -1]
    at_rest = k.boost(first, back, m0)
    momentum = np.linalg.norm(at_rest[:, 1:], axis=1)
    # sqrt((s - (m1+m2)^2)(s - (m1-m2)^2)) / (2 sqrt(s)), s = 325^2
    np.testing.assert_allclose(momentum, math.sqrt(63_600 * 103_600) / 650, rtol=1e-9)
    directions = at_rest[:, 1:] / momentum[:, None]
    sigma = 1 / math.sqrt(3 * n)
    assert np.abs(directions.mean(0)).max() < 5 * sigma
    np.testing.assert_allclose((directions**2).mean(0), 1 / 3, atol=0.012)


def test_neutrino_gives_the_w_mass_exactly_where_a_solution_exists() -> None:
    n, rng = 2_000, np.random.default_rng(2)
    phi = rng.uniform(-np.pi, np.pi, n)
    lepton = k.from_pt_eta_phi(rng.uniform(20, 80, n), rng.normal(0, 1, n), phi)
    met_x, met_y = rng.normal(0, 40, (2, n))
    nu = k.neutrino(lepton, met_x, met_y)
    met = np.hypot(met_x, met_y)
    cosine = (lepton[:, 1] * met_x + lepton[:, 2] * met_y) / (k.transverse(lepton) * met)
    m_t = np.sqrt(2 * k.transverse(lepton) * met * (1 - cosine))
    m_w, solvable = k.mass(lepton + nu), m_t < M_W
    assert 0.2 < solvable.mean() < 0.98
    np.testing.assert_allclose(m_w[solvable], M_W, rtol=1e-6)
    assert (m_w[~solvable] >= m_t[~solvable] * (1 - 1e-9)).all()
    np.testing.assert_allclose(k.mass(nu), 0.0, atol=1e-4)


def test_pt_eta_phi_round_trip() -> None:
    p = k.from_pt_eta_phi(np.array([37.0]), np.array([-1.7]), np.array([2.9]))
    assert k.transverse(p)[0] == pytest.approx(37.0)
    assert k.pseudorapidity(p)[0] == pytest.approx(-1.7)
    assert k.azimuth(p)[0] == pytest.approx(2.9)
    assert k.mass(p)[0] == pytest.approx(0.0, abs=1e-5)

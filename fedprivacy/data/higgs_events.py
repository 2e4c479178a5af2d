"""Toy Monte Carlo of the two processes in HIGGS: what collides, decays and is measured.

Signal: gg -> H0(425) -> W H+(325), H+ -> W h0(125), h0 -> b b. Background: t t -> W b W b. In both,
one W decays to lepton and neutrino, the other to two quarks (Baldi, Sadowski and Whiteson 2014,
arXiv 1402.4735). All decays are exact two-body phase space without spin. Production spectra,
radiation and detector are simple densities whose constants were chosen so that the columns'
spreads, and what linear and nonlinear classifiers reach on them, resemble the published ones.
Not physics to quote. Energies in GeV.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedprivacy.data.higgs_kinematics import (
    M_TOP,
    M_W,
    Array,
    azimuth,
    derived_masses,
    from_pt_eta_phi,
    pseudorapidity,
    transverse,
    two_body,
)

M_H0, M_HP, M_HIGGS = 425.0, 325.0, 125.0
WIDTH_HEAVY, WIDTH_W, WIDTH_TOP = 20.0, 2.1, 1.4  # of H0 and H+, generous: stands for radiation

MAX_RADIATED = 3
RADIATED_SIGNAL, RADIATED_BACKGROUND = 1.7, 2.4  # mean number of radiated jets
RADIATED_PT, RADIATED_ETA = 55.0, 1.6
RAPIDITY = 0.9
EXCESS_SHAPE, EXCESS_MEAN = 2.0, 145.0  # of m(tt) above threshold

JET_STOCHASTIC, JET_CONSTANT = 0.9, 0.05  # sigma(pt)/pt = stochastic / sqrt(pt) (+) constant
LEPTON_RESOLUTION = 0.02
B_LOSS = 0.13  # mean share of a b jet's energy that neutrinos and the jet's edge take away
MET_NOISE = 6.0
TAG_LIGHT, TAG_B = (0.015, 0.13), (0.58, 0.86)  # probabilities of tag 2, and of tag 1 or 2
TAG_TURN_ON = 35.0  # b-tagging is poor well below this pt

MIN_PT, MAX_ETA, N_JETS = 20.0, 2.5, 4


@dataclass(frozen=True)
class Partons:
    """True final state of n events.

    Attributes:
        lepton: ``(n, 4)`` four-vectors (E, px, py, pz).
        neutrino: ``(n, 4)``.
        jets: ``(n, 7, 4)``: b, b, the two quarks of the hadronic W, three radiated jets (zero
            where there are fewer).
    """

    lepton: Array
    neutrino: Array
    jets: Array


def breit_wigner(
    centre: float, width: float, low: Array | float, high: float, n: int, rng: np.random.Generator
) -> Array:
    """``(n,)`` masses from a Breit-Wigner density cut to [low, high]."""
    start, stop = (np.arctan(2 * (edge - centre) / width) for edge in (low, high))
    return np.asarray(centre + width / 2 * np.tan(rng.uniform(start, stop, n)))


def radiated_jets(n: int, mean: float, rng: np.random.Generator) -> Array:
    """Initial-state radiation ``(n, 3, 4)``: a Poisson number of jets, at most three."""
    count = np.minimum(rng.poisson(mean, n), MAX_RADIATED)
    shape = (n, MAX_RADIATED)
    pt = rng.exponential(RADIATED_PT, shape) * (np.arange(MAX_RADIATED) < count[:, None])
    phi = rng.uniform(-np.pi, np.pi, shape)
    return from_pt_eta_phi(pt, rng.normal(0, RADIATED_ETA, shape), phi)


def recoiling(m: Array, radiated: Array, rng: np.random.Generator) -> Array:
    """Four-vectors ``(n, 4)`` of systems of mass ``m`` that balance the radiated jets' pt."""
    px, py = -radiated[..., 1].sum(1), -radiated[..., 2].sum(1)
    m_t, y = np.sqrt(m**2 + px**2 + py**2), rng.normal(0, RAPIDITY, len(m))
    return np.column_stack([m_t * np.cosh(y), px, py, m_t * np.sinh(y)])


def signal(n: int, rng: np.random.Generator) -> Partons:
    """gg -> H0 -> W H+, H+ -> W h0, h0 -> b b; either W decays to the lepton, with even odds."""
    zero, m_h = np.zeros(n), np.full(n, M_HIGGS)
    radiated = radiated_jets(n, RADIATED_SIGNAL, rng)
    m_w1, m_w2 = _w_masses(n, rng), _w_masses(n, rng)
    m_hp = breit_wigner(M_HP, WIDTH_HEAVY, M_HP - 50, M_HP + 50, n, rng)
    m_h0 = breit_wigner(M_H0, WIDTH_HEAVY, np.maximum(m_hp + m_w1 + 1, 365.0), 500.0, n, rng)
    w1, h_plus = two_body(recoiling(m_h0, radiated, rng), m_h0, m_w1, m_hp, rng)
    w2, higgs = two_body(h_plus, m_hp, m_w2, m_h, rng)
    b_jets = two_body(higgs, m_h, zero, zero, rng)
    first = rng.random(n) < 0.5
    leptonic, hadronic = np.where(first[:, None], (w1, w2), (w2, w1))
    m_lep, m_had = np.where(first, (m_w1, m_w2), (m_w2, m_w1))
    return _final(leptonic, m_lep, hadronic, m_had, b_jets, radiated, rng)


def background(n: int, rng: np.random.Generator) -> Partons:
    """t t -> W b W b, one W leptonic."""
    zero = np.zeros(n)
    radiated = radiated_jets(n, RADIATED_BACKGROUND, rng)
    m_w1, m_w2 = _w_masses(n, rng), _w_masses(n, rng)
    m_t1, m_t2 = (breit_wigner(M_TOP, WIDTH_TOP, 150.0, 195.0, n, rng) for _ in range(2))
    m_tt = m_t1 + m_t2 + rng.gamma(EXCESS_SHAPE, EXCESS_MEAN / EXCESS_SHAPE, n)
    t1, t2 = two_body(recoiling(m_tt, radiated, rng), m_tt, m_t1, m_t2, rng)
    w1, b1 = two_body(t1, m_t1, m_w1, zero, rng)
    w2, b2 = two_body(t2, m_t2, m_w2, zero, rng)
    return _final(w1, m_w1, w2, m_w2, (b1, b2), radiated, rng)


def measured(partons: Partons, rng: np.random.Generator) -> Array:
    """Columns 1..28 ``(m, 28)`` in GeV and raw tags, of the events that pass the selection.

    One lepton and at least four jets of pt > 20 and \\|eta\\| < 2.5, two of the leading four
    b-tagged; jets are ordered by measured pt. Missing momentum is the neutrino plus everything
    the jets were mismeasured by, plus noise.
    """
    n = len(partons.lepton)
    lepton = partons.lepton * (1 + LEPTON_RESOLUTION * rng.standard_normal((n, 1)))
    jets = partons.jets * _jet_response(partons.jets, rng)[..., None]
    lost = (partons.jets - jets).sum(1)
    met_x, met_y = (
        partons.neutrino[:, axis] + lost[:, axis] + rng.normal(0, MET_NOISE, n) for axis in (1, 2)
    )
    pt, tags = transverse(jets), _tags(transverse(jets), rng)
    # A radiated jet that is absent has pt 0, and no direction.
    eta = np.arcsinh(jets[..., 3] / np.maximum(pt, 1e-9))
    seen = (pt > MIN_PT) & (np.abs(eta) < MAX_ETA)
    leading = np.argsort(np.where(seen, -pt, 0.0), axis=1, kind="stable")[:, :N_JETS]
    jets = np.take_along_axis(jets, leading[:, :, None], axis=1)
    tags = np.take_along_axis(tags, leading, axis=1)
    keep = (seen.sum(1) >= N_JETS) & ((tags > 0).sum(1) >= 2)
    keep &= (transverse(lepton) > MIN_PT) & (np.abs(pseudorapidity(lepton)) < MAX_ETA)
    return _columns(lepton[keep], met_x[keep], met_y[keep], jets[keep], tags[keep])


def _w_masses(n: int, rng: np.random.Generator) -> Array:
    return breit_wigner(M_W, WIDTH_W, 60.0, 100.0, n, rng)


def _final(
    leptonic: Array,
    m_leptonic: Array,
    hadronic: Array,
    m_hadronic: Array,
    b_jets: tuple[Array, Array],
    radiated: Array,
    rng: np.random.Generator,
) -> Partons:
    """Let both W decay and collect the final state."""
    zero = np.zeros(len(leptonic))
    lepton, neutrino = two_body(leptonic, m_leptonic, zero, zero, rng)
    quarks = two_body(hadronic, m_hadronic, zero, zero, rng)
    hard = np.stack([*b_jets, *quarks], axis=1)
    return Partons(lepton, neutrino, np.concatenate([hard, radiated], axis=1))


def _jet_response(jets: Array, rng: np.random.Generator) -> Array:
    """Measured over true energy ``(n, 7)``; the first two jets are b jets."""
    pt = transverse(jets)
    sigma = np.sqrt(JET_STOCHASTIC**2 / np.maximum(pt, 1.0) + JET_CONSTANT**2)
    response = np.maximum(1 + sigma * rng.standard_normal(pt.shape), 0.1)
    response[:, :2] *= 1 - B_LOSS * np.minimum(rng.exponential(1.0, (len(pt), 2)), 4.0)
    return np.asarray(response)


def _tags(pt: Array, rng: np.random.Generator) -> NDArray[np.int64]:
    """b-tags 0, 1 or 2 ``(n, 7)`` by flavour; the first two jets are b jets."""
    turn_on = 1 - np.exp(-pt / TAG_TURN_ON)
    is_b = np.arange(pt.shape[1]) < 2
    drawn = rng.random(pt.shape)
    steps = [drawn < np.where(is_b, b * turn_on, q) for b, q in zip(TAG_B, TAG_LIGHT, strict=True)]
    return np.asarray(steps[0].astype(np.int64) + steps[1])


def _columns(
    lepton: Array, met_x: Array, met_y: Array, jets: Array, tags: NDArray[np.int64]
) -> Array:
    """The owner's 28 feature columns, not normalised."""
    per_jet = np.stack([transverse(jets), pseudorapidity(jets), azimuth(jets), tags], axis=-1)
    single = [
        transverse(lepton),
        pseudorapidity(lepton),
        azimuth(lepton),
        np.hypot(met_x, met_y),
        np.arctan2(met_y, met_x),
    ]
    masses = derived_masses(lepton, met_x, met_y, jets, tags.astype(np.float64))
    return np.column_stack([*single, per_jet.reshape(len(jets), -1), masses])

"""Four-vectors of the toy HIGGS events: two-body decays, boosts, and the seven derived masses.

A four-vector is the last axis ``(E, px, py, pz)`` of a float64 array, in GeV with c = 1; z is the
beam. Formulas: Particle Data Group, Review of Particle Physics, chapter "Kinematics".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
M_W = 80.4
M_TOP = 172.5


def from_pt_eta_phi(pt: Array, eta: Array, phi: Array) -> Array:
    """Massless four-vectors ``(..., 4)`` of transverse momentum, pseudorapidity and azimuth."""
    return np.stack([pt * np.cosh(eta), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], -1)


def mass(p: Array) -> Array:
    """Invariant mass ``(...)``; a slightly negative square, from rounding, counts as zero."""
    square = p[..., 0] ** 2 - (p[..., 1:] ** 2).sum(-1)
    return np.asarray(np.sqrt(np.maximum(square, 0.0)))


def transverse(p: Array) -> Array:
    """Transverse momentum ``(...)``."""
    return np.hypot(p[..., 1], p[..., 2])


def pseudorapidity(p: Array) -> Array:
    """Pseudorapidity ``(...)``; the transverse momentum must not be zero."""
    return np.arcsinh(p[..., 3] / transverse(p))


def azimuth(p: Array) -> Array:
    """Azimuth ``(...)`` in (-pi, pi]."""
    return np.arctan2(p[..., 2], p[..., 1])


def boost(p: Array, parent: Array, parent_mass: Array) -> Array:
    """Carry ``p`` from the rest frame of ``parent`` into the frame where ``parent`` is given."""
    gamma = parent[..., :1] / parent_mass[..., None]
    momentum = parent[..., 1:] / parent_mass[..., None]
    along = (momentum * p[..., 1:]).sum(-1, keepdims=True)
    energy = gamma * p[..., :1] + along
    return np.concatenate(
        [energy, p[..., 1:] + momentum * (along / (1 + gamma) + p[..., :1])], axis=-1
    )


def isotropic(n: int, rng: np.random.Generator) -> Array:
    """Directions ``(n, 3)`` uniform on the unit sphere."""
    cosine = rng.uniform(-1, 1, n)
    sine, phi = np.sqrt(1 - cosine**2), rng.uniform(-np.pi, np.pi, n)
    return np.stack([sine * np.cos(phi), sine * np.sin(phi), cosine], -1)


def two_body(
    parent: Array, m0: Array, m1: Array, m2: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Decay ``parent`` (n, 4) of mass ``m0`` into masses ``m1`` and ``m2``, isotropic at rest.

    For two bodies this is exact phase space; spin is left out. Needs ``m0 >= m1 + m2``.
    """
    lam = (m0**2 - (m1 + m2) ** 2) * (m0**2 - (m1 - m2) ** 2)
    k = (np.sqrt(lam) / (2 * m0))[:, None] * isotropic(len(parent), rng)
    square = (k**2).sum(-1)
    first = np.column_stack([np.sqrt(square + m1**2), k])
    second = np.column_stack([np.sqrt(square + m2**2), -k])
    return boost(first, parent, m0), boost(second, parent, m0)


def neutrino(lepton: Array, met_x: Array, met_y: Array) -> Array:
    """Neutrino ``(n, 4)`` whose transverse momentum is the missing one and whose pz makes m(W).

    Of two solutions the one of smaller ``|pz|``; where the transverse mass exceeds m(W) there is
    none and the real part is taken, so that the mass of lepton and neutrino comes out above m(W).
    """
    pt2, met2 = transverse(lepton) ** 2, met_x**2 + met_y**2
    mu = M_W**2 / 2 + lepton[:, 1] * met_x + lepton[:, 2] * met_y
    root = np.sqrt(np.maximum(lepton[:, 0] ** 2 * (mu**2 - pt2 * met2), 0.0))
    plus, minus = (mu * lepton[:, 3] + root) / pt2, (mu * lepton[:, 3] - root) / pt2
    pz = np.where(np.abs(plus) < np.abs(minus), plus, minus)
    return np.column_stack([np.sqrt(met2 + pz**2), met_x, met_y, pz])


def derived_masses(lepton: Array, met_x: Array, met_y: Array, jets: Array, tags: Array) -> Array:
    """The seven derived columns ``(n, 7)`` in GeV, from measured objects only.

    Order: m_jj, m_jjj, m_lv, m_jlv, m_bb, m_wbb, m_wwbb (Baldi, Sadowski and Whiteson 2014,
    arXiv 1402.4735). Which objects enter is our choice, the paper leaves it open: the b pair is
    the two jets of highest tag, the leading ones where tags tie; the other two make the hadronic
    W; it takes the b that brings m_jjj closer to m(top), and the leptonic W the other one; m_wbb
    is of the leptonic W.

    Args:
        lepton: ``(n, 4)``.
        met_x: ``(n,)`` missing transverse momentum.
        met_y: ``(n,)``.
        jets: ``(n, 4, 4)`` four jets an event, leading first.
        tags: ``(n, 4)`` b-tags 0, 1 or 2.
    """
    order = np.argsort(-tags, axis=1, kind="stable")
    ranked = np.take_along_axis(jets, order[:, :, None], axis=1)
    b_jets, w_had = ranked[:, :2], ranked[:, 2] + ranked[:, 3]
    w_lep = lepton + neutrino(lepton, met_x, met_y)
    t_had, t_lep = mass(w_had[:, None] + b_jets), mass(w_lep[:, None] + b_jets[:, ::-1])
    best = np.argmin(np.abs(t_had - M_TOP), axis=1)
    event = np.arange(len(best))
    higgs = b_jets.sum(1)
    masses = [
        mass(w_had),
        t_had[event, best],
        mass(w_lep),
        t_lep[event, best],
        mass(higgs),
        mass(w_lep + higgs),
        mass(w_had + w_lep + higgs),
    ]
    return np.column_stack(masses)

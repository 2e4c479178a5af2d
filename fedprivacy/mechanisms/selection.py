"""Choosing the coordinates that a sparse filter uploads, and what each way of choosing costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtri

from fedprivacy.errors import ProtectionError
from fedprivacy.mechanisms.guards import check_values

MAX_PASSES = 1000
WHO = "sparse-vector filter"

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


class LaplaceSource(Protocol):
    """Where the randomness comes from; ``numpy.random.Generator`` is one."""

    def laplace(self, loc: float, scale: float, size: int) -> Floats:
        """``size`` draws of Lap(scale) around ``loc``."""
        ...

    def choice(self, a: Indices, size: int, replace: bool) -> Indices:
        """``size`` uniform draws from ``a``."""
        ...


class GumbelSource(Protocol):
    """Where the randomness comes from; ``numpy.random.Generator`` is one."""

    def gumbel(self, loc: float, scale: float, size: int) -> Floats:
        """``size`` draws of a Gumbel variable of this scale around ``loc``."""
        ...


@dataclass(frozen=True)
class SvtScales:
    """Scales of a sparse-vector filter's three Laplace noises, and how many coordinates leave.

    Attributes:
        count: c, coordinates drawn for the upload.
        threshold: lam_rho, of the threshold.
        query: lam_nu, of each comparison.
        release: b, of each released value.
        epsilon_selection: pure epsilon of the selection alone.
    """

    count: int
    threshold: float
    query: float
    release: float
    epsilon_selection: float


def upload_count(size: int, fraction: float) -> int:
    """c = min(ceil(fraction d), d): how many of ``size`` coordinates are uploaded."""
    return int(min(math.ceil(float(size) * fraction), size))


def select_above_threshold(
    magnitudes: Floats, tau: float, scales: SvtScales, replace: bool, rng: LaplaceSource
) -> Indices:
    """Distinct indices, at most c of them, in ascending order: NVIDIA FLARE's way of choosing.

    One threshold ``tau + Lap(lam_rho)`` for the round; coordinates whose magnitude plus
    ``Lap(lam_nu)`` reaches it are accepted, in repeated passes over the others with fresh noise,
    until there are at least c; c of them are drawn at random (with ``replace`` duplicates
    collapse). Priced in ``svt_flare28``.

    Args:
        magnitudes: ``(d,)``, each clipped to [0, gamma].
        tau: the threshold before its noise.
        scales: scales of the noises, and c.
        replace: draw the c with replacement.
        rng: source of all randomness.

    Raises:
        ProtectionError: too few coordinates pass in ``MAX_PASSES`` passes; or the magnitudes, the
            threshold, c or a scale are not finite or out of range.
    """
    check_values(magnitudes, WHO)
    _check_choice(scales.count, magnitudes.size, tau, scales.threshold, scales.query)
    threshold = tau + float(rng.laplace(0.0, scales.threshold, 1)[0])
    accepted = _accept(magnitudes, threshold, scales, rng)
    return np.unique(rng.choice(accepted, size=scales.count, replace=replace))


def _accept(magnitudes: Floats, threshold: float, scales: SvtScales, rng: LaplaceSource) -> Indices:
    """Indices that passed the threshold, at least ``scales.count`` of them."""
    remaining = np.arange(magnitudes.size)
    accepted: list[Indices] = []
    for _ in range(MAX_PASSES):
        passed = magnitudes[remaining] + rng.laplace(0.0, scales.query, remaining.size) >= threshold
        accepted.append(remaining[passed])
        remaining = remaining[~passed]
        if magnitudes.size - remaining.size >= scales.count:
            return np.concatenate(accepted)
    raise ProtectionError(
        f"{WHO}: only {magnitudes.size - remaining.size} of the {scales.count} "
        f"coordinates to upload passed the threshold {threshold:.3g} in {MAX_PASSES} passes; "
        "nothing was sent. Lower algorithm.tau or algorithm.epsilon (comparison noise "
        f"{scales.query:.3g}), or raise algorithm.gamma."
    )


def select_top(scores: Floats, count: int, scale: float, rng: GumbelSource) -> Indices:
    """The ``count`` largest of ``scores + Gumbel(scale)``, in ascending order of index.

    The same law as ``count`` exponential mechanisms one after the other, each choosing i among
    those not chosen yet with probability proportional to exp(score_i / scale) (Durfee & Rogers
    2019, arXiv 1905.04273, section 4.1). Scale 0 chooses the largest.

    Args:
        scores: ``(d,)`` finite.
        count: at least 1, at most d.
        scale: of the Gumbel noise.
        rng: source of the noise.

    Raises:
        ProtectionError: the scores, ``count`` or ``scale`` are not finite or out of range.
    """
    check_values(scores, WHO)
    _check_choice(count, scores.size, 0.0, scale)
    noisy = scores + (rng.gumbel(0.0, scale, scores.size) if scale > 0 else 0.0)
    return np.sort(np.argpartition(noisy, scores.size - count)[scores.size - count :])


def _check_choice(count: int, size: int, tau: float, *scales: float) -> None:
    """Refuse what would choose without the noise that is priced: NaN passes for no noise."""
    if not 1 <= count <= size:
        raise ProtectionError(
            f"{WHO}: {count} of {size} coordinates to choose, allowed is 1 to {size}; nothing was "
            "sent"
        )
    sound = all(math.isfinite(scale) and scale >= 0 for scale in scales)
    if not (sound and math.isfinite(tau)):
        raise ProtectionError(
            f"{WHO}: threshold {tau:g} and noise of scale {', '.join(f'{s:g}' for s in scales)}, "
            "allowed are finite numbers, scales from 0 up; nothing was sent"
        )


def bounded_range_epsilon(mu: float) -> float:
    """The epsilon at which one exponential mechanism costs ``mu`` of Gaussian DP.

    epsilon = 2 log(Phi(mu/2) / Phi(-mu/2)); small mu: epsilon = 1.596 mu.

    1. With scores of sensitivity D and noise of scale 2 D / epsilon, the losses of an exponential
       mechanism lie in an interval [t - epsilon, t], 0 <= t <= epsilon: it is
       epsilon-bounded-range (Durfee & Rogers 2019, section 4.2).
    2. So its trade-off curve lies on or above the two straight lines from (0, 1) and (1, 0) of
       slopes -exp(t) and -exp(t - epsilon). Their corner has the error probabilities of two
       Bernoulli variables whose log-odds differ by epsilon, whatever t is (Dong, Durfee & Rogers
       2020, arXiv 1909.13830, section 3.1: generalised randomised response).
    3. A Gaussian curve is convex, so it lies below both lines as soon as it passes below the
       corner: mu >= h(x + epsilon/2) - h(x - epsilon/2) with h = Phi^-1(1 / (1 + exp(-x))) and x
       the mean of the two log-odds.
    4. h is odd, and concave above 0, so the difference is largest at x = 0: mu = 2 h(epsilon/2).
    5. Gaussian curves compose to Gaussian curves, adaptively too: c choices cost mu sqrt(c)
       (Dong, Roth & Su 2022, corollary 3.3).
    """
    return 2.0 * float(log_ndtr(mu / 2) - log_ndtr(-mu / 2))


def bounded_range_mu(epsilon: float) -> float:
    """Inverse of ``bounded_range_epsilon``: what one exponential mechanism costs in Gaussian DP."""
    return 2.0 * float(ndtri(1.0 / (1.0 + math.exp(-epsilon / 2))))

"""Sparse-vector filter done right: c coordinates chosen and released, with a price that is proved.

One site, replace_one; gamma, C (``clip``), z (noise multiplier of the round), a
(``selection_share``) and c are public constants. Every scalar of the update is treated alike.

1. Scores s_i = min(|w_i|, gamma) lie in [0, gamma] for whatever records a site has, so replacing
   the site moves each score by at most gamma.
2. The c largest of s_i + Gumbel(2 gamma / e) are chosen: c exponential mechanisms, one after the
   other and without replacement, each e-bounded-range (``selection.select_top``).
3. ``gaussian``: each of the c choices costs 2 Phi^-1(1/(1 + exp(-e/2))) of Gaussian DP
   (``selection.bounded_range_epsilon``), so all of them mu_s = sqrt(c) times that. e is set such
   that mu_s = sqrt(a) 2/z.
   ``laplace``: each costs pure e (McSherry & Talwar 2007); e is set such that c e = a 2/z.
4. The chosen indices are public from here on. v = the chosen values, scaled down to norm C (L2 for
   ``gaussian``, L1 for ``laplace``): replacing the site moves v by at most 2C.
5. ``gaussian``: noise of zC/sqrt(1-a) on each value: mu_r = sqrt(1-a) 2/z.
   ``laplace``: noise of scale zC/(1-a): pure epsilon (1-a) 2/z (see ``gaussian_clipped``).
6. Together mu = sqrt(mu_s^2 + mu_r^2) = 2/z, or epsilon = 2/z: what ``gaussian_clipped`` costs at
   the same z. Where all coordinates leave (c = d) there is nothing to choose, and a counts as 0;
   at a = 0 the coordinates are drawn uniformly, whatever their values.

Why the largest noisy scores and no threshold: with one threshold, stopped at the c-th acceptance
(Lyu, Su & Li 2017, algorithm 7, at its best split), the pure budget and so the noise grows with
c; that of noisy maxima grows with sqrt(c), and rounds add up as Gaussian ones do. Standard
deviation of the noise of one comparison, in units of gamma, at epsilon 10 for delta 1e-5:

    rounds            1                  10
    c            1    10   100      1    10   100
    threshold  0.59   3.4  29.5    5.9   34   296
    maxima     0.77   2.5   8.0    2.5  8.0    25

And maxima need no threshold that somebody has to guess without looking at updates.

What choosing is worth: for a whole site, with thousands of coordinates, little. Noise of
1.6 gamma sqrt(c)/mu_s stands beside scores of at most gamma, so below mu_s = sqrt(c) the choice
is close to uniform; and at the same price the full update of ``gaussian_clipped`` has nearly
always the larger cosine with the true one. What the filter buys is a shorter message.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import dp_accounting
import numpy as np
import torch
from numpy.typing import NDArray

from fedprivacy.accounting import pure_event
from fedprivacy.accounting.pure import LARGEST
from fedprivacy.config.schema import SvtExactConf
from fedprivacy.errors import ConfigError
from fedprivacy.mechanisms.base import Placement, Protected, Release
from fedprivacy.mechanisms.gaussian_clipped import (
    NO_NOISE,
    add_noise,
    check_clipped,
    clip_norm,
    expected_norm,
    noise_event,
)
from fedprivacy.mechanisms.guards import check_strength, check_update, check_values
from fedprivacy.mechanisms.none import off_schedule_release
from fedprivacy.mechanisms.selection import bounded_range_epsilon, select_top, upload_count
from fedprivacy.training.plain import train_plain
from fedprivacy.training.task import LocalTask, Trained

_PLACEMENT: Placement = "update"
_WHO = "svt_exact filter"


@dataclass(frozen=True)
class ExactScales:
    """Scales of one round.

    Attributes:
        count: c, coordinates that leave.
        share: a, share of the budget that choosing them takes; 0 where all leave.
        epsilon_choice: e of one choice; infinite without noise, 0 where the choice is uniform.
        gumbel: scale of the noise on the scores; infinite where the choice is uniform.
        release: sigma or b of the noise on the values.
    """

    count: int
    share: float
    epsilon_choice: float
    gumbel: float
    release: float


def exact_scales(conf: SvtExactConf, size: int, strength: float = 1.0) -> ExactScales:
    """The scales for an update of ``size`` scalars; see the module for the derivation.

    Args:
        conf: the parameters.
        size: d.
        strength: of the protection; scales ``noise_multiplier``.
    """
    z, count = conf.noise_multiplier * strength, upload_count(size, conf.fraction)
    share = 0.0 if count == size else conf.selection_share
    kept = math.sqrt(1 - share) if conf.noise == "gaussian" else 1 - share
    release = z * conf.clip / kept
    if share == 0:
        return ExactScales(count, share, 0.0, math.inf, release)
    if z == 0:
        return ExactScales(count, share, math.inf, 0.0, release)
    if conf.noise == "gaussian":
        choice = bounded_range_epsilon(math.sqrt(share / count) * 2 / z)
    else:
        choice = share * 2 / z / count
    return ExactScales(count, share, choice, 2 * conf.gamma / choice, release)


def exact_event(conf: SvtExactConf, size: int, strength: float = 1.0) -> dp_accounting.DpEvent:
    """What one round releases of one site; to be entered with ``replace_one``."""
    z, scales = conf.noise_multiplier * strength, exact_scales(conf, size, strength)
    if z == 0 or scales.share == 0:
        return noise_event(z, conf.noise)
    if conf.noise == "gaussian":
        choices = dp_accounting.GaussianDpEvent(z / math.sqrt(scales.share))
        values = dp_accounting.GaussianDpEvent(z / math.sqrt(1 - scales.share))
    else:
        one = pure_event(scales.epsilon_choice)
        choices = dp_accounting.SelfComposedDpEvent(one, scales.count)
        values = dp_accounting.LaplaceDpEvent(z / (1 - scales.share))
    return dp_accounting.ComposedDpEvent((choices, values))


def check_exact(conf: SvtExactConf) -> None:
    """Refuse parameters for which the filter is not defined or has no price.

    Raises:
        ConfigError: names the key, the value and what is allowed.
    """
    check_clipped(conf.clip, conf.noise_multiplier, conf.noise)
    if not (math.isfinite(conf.gamma) and conf.gamma > 0):
        raise ConfigError("algorithm.gamma", conf.gamma, "finite and > 0", "algorithm.gamma=0.05")
    if not 0 < conf.fraction <= 1:
        allowed, fix = "0 < fraction <= 1", "algorithm.fraction=0.1"
        raise ConfigError("algorithm.fraction", conf.fraction, allowed, fix)
    if not 0 <= conf.selection_share < 1:
        allowed, fix = "0 <= selection_share < 1", "algorithm.selection_share=0.5"
        raise ConfigError("algorithm.selection_share", conf.selection_share, allowed, fix)
    z = conf.noise_multiplier
    if conf.noise == "laplace" and 0 < z < 2 / LARGEST:
        allowed = f"0, or at least {2 / LARGEST:.3g}: below, no accountant can price the selection"
        raise ConfigError("algorithm.noise_multiplier", z, allowed, "algorithm.noise=gaussian")


def exact_filter(
    update: NDArray[np.float64], conf: SvtExactConf, strength: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """What leaves the site: ``c`` clipped, noisy coordinates of a ``(d,)`` update, zero elsewhere.

    Args:
        update: finite difference of weights, over the whole round.
        conf: the parameters.
        strength: of the protection; scales ``noise_multiplier``.
        rng: source of all randomness.

    Raises:
        ProtectionError: the update is not finite and flat, or the strength is not from 0 up.
        ConfigError: see ``check_exact``.
    """
    check_exact(conf)
    check_values(update, _WHO)
    check_strength(strength, _WHO)
    scales = exact_scales(conf, update.size, strength)
    if scales.share == 0:
        chosen = np.sort(rng.choice(update.size, size=scales.count, replace=False))
    else:
        scores = np.minimum(np.abs(update), conf.gamma)
        chosen = select_top(scores, scales.count, scales.gumbel, rng)
    result = np.zeros_like(update)
    values = clip_norm(update[chosen], conf.clip, conf.noise)
    result[chosen] = add_noise(values, scales.release, conf.noise, rng)
    return result


@dataclass(frozen=True)
class SvtExactFilter:
    """Chosen, clipped and noisy coordinates; the strength scales ``noise_multiplier``.

    Attributes:
        conf: the parameters.
    """

    conf: SvtExactConf

    name = "svt_exact"
    placement = _PLACEMENT

    def __post_init__(self) -> None:
        check_exact(self.conf)

    @staticmethod
    def from_conf(conf: SvtExactConf) -> SvtExactFilter:
        """The mechanism of a configuration.

        Raises:
            ConfigError: a value is out of range.
        """
        return SvtExactFilter(conf)

    def train(self, task: LocalTask) -> Trained:
        """Plain local training; the protection acts on the update."""
        return train_plain(task)

    def protect(self, update: torch.Tensor, task: LocalTask, trained: Trained) -> Protected:
        """Filter the update; the update as it is where the schedule is off.

        Raises:
            ProtectionError: the update is not a finite flat vector.
        """
        check_update(update)
        if task.strength is None:
            return Protected(update)
        values = update.cpu().numpy().astype(np.float64)
        filtered = exact_filter(values, self.conf, task.strength, task.streams.numpy("noise"))
        result = torch.from_numpy(filtered.astype(np.float32))
        check_update(result)
        scales = exact_scales(self.conf, update.numel(), task.strength)
        return Protected(result, expected_norm(scales.count, scales.release, self.conf.noise))

    def release(self, task: LocalTask, trained: Trained) -> Release:
        """The choices and the noisy values, for one site under replace_one."""
        if task.strength is None:
            return off_schedule_release("site", "replace_one")
        conf, size = self.conf, task.parameters.size
        z, scales = conf.noise_multiplier * task.strength, exact_scales(conf, size, task.strength)
        details: dict[str, float | int | str] = {
            "z": z,
            "C": conf.clip,
            "gamma": conf.gamma,
            "noise": conf.noise,
            "c": scales.count,
            "d": size,
            "selection_share": scales.share,
            "scale": scales.release,
            "strength": task.strength,
        }
        if z > 0 and scales.share > 0:
            details |= {"eps_choice": scales.epsilon_choice, "gumbel": scales.gumbel}
        event = exact_event(conf, size, task.strength)
        return Release(event, "site", "replace_one", "" if z > 0 else NO_NOISE, details)

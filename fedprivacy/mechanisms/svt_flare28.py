"""Sparse-vector filter on the update, with the semantics of NVIDIA FLARE >= 2.8.

Unlike the earlier one it clips before the noise, so it has a price. The price is not its
``epsilon``, which is the selection's alone. One site, replace_one, K local steps taken as public:

1. What is compared is a_i = min(|u_i|, g) in [0, g], u = update / K: replacing the site moves each
   a_i by at most g. What is released is clip(u_i) in [-g, g]: it moves by at most 2g.
2. Compare the run with threshold t with the replaced site's at threshold t + g. The density of the
   threshold noise changes by exp(g / lam_rho) at most. A coordinate's chance s_i to pass one
   comparison becomes s_i', and exp(-2g / lam_nu) s_i <= s_i' <= s_i.
3. Let f(s) be the chance of an outcome O, the k <= c coordinates that are uploaded. From s to s'
   it falls by no more than exp(2 c g / lam_nu), so that the selection is pure
   g / lam_rho + 2 c g / lam_nu = ``epsilon``: between them each log s_i falls by 2g / lam_nu at
   most, so it suffices that those derivatives of log f by the log s_i that are positive add up to
   c at most. One comparison of i contributes E[passed (v - v')] to the derivative of f, where v is
   the chance to draw O from all that are accepted in the end, and v' the same had i failed there,
   with the noise of all other comparisons kept:
   - i in O: at most E[v] = f over all passes, since i passes once. Together at most k f.
   - i not in O, more than c accepted: had i failed, the same pass would have been the last, with O
     among the accepted and no more of them than now, so v' >= v.
   - i not in O, exactly c accepted: at most E[v]; of such i there are c - k. At most (c - k) f.
   Here v is 1/binomial(|A|, c) for ``replace=false`` and else (surjections of c draws onto
   O)/|A|^c; both fall with the number |A| of accepted ones. The refusal after ``MAX_PASSES`` is an
   outcome too, and only likelier at s'.
   Stopping at the c-th acceptance costs the same (Lyu, Su & Li 2017, theorem 4).
4. Each of at most c released values: Laplace noise of scale b = 2 c g / eps_rel against a move of
   2g, so pure epsilon eps_rel / c each (Dwork et al. 2006).
5. Selection and values compose (``accounting.SparseVectorPrice``). Scaling by K is the last step,
   and K enters no noise of an update that is clipped: it only has to be public.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedprivacy.accounting import SparseVectorPrice
from fedprivacy.accounting.pure import LARGEST
from fedprivacy.config.schema import SvtFlare28Conf
from fedprivacy.errors import ConfigError
from fedprivacy.mechanisms.base import Placement, Protected, Release
from fedprivacy.mechanisms.guards import check_noisy, check_update
from fedprivacy.mechanisms.none import off_schedule_release
from fedprivacy.mechanisms.selection import (
    WHO,
    LaplaceSource,
    SvtScales,
    select_above_threshold,
    upload_count,
)
from fedprivacy.mechanisms.svt import check_filtered, check_svt
from fedprivacy.training.plain import train_plain
from fedprivacy.training.task import LocalTask, Trained

_PLACEMENT: Placement = "update"
ASSUMED = "the number of local steps of a site is public: it scales what leaves"


def flare28_scales(conf: SvtFlare28Conf, size: int) -> SvtScales:
    """Noise scales for an update of ``size`` scalars (FLARE >= 2.8, ``SVTPrivacy``).

    ``eps_t = epsilon / (1 + (2c)^(2/3))`` unless given (Lyu, Su & Li 2017, section 4.2, for
    queries that are not monotonic), ``lam_rho = gamma / eps_t``,
    ``lam_nu = 2 c gamma / (epsilon - eps_t)``, ``b = 2 c gamma / eps_rel`` with
    ``eps_rel = c noise_var`` unless given.
    """
    count = upload_count(size, conf.fraction)
    threshold = conf.epsilon_threshold
    if threshold is None:
        threshold = conf.epsilon / (1 + (2 * count) ** (2 / 3))
    release = conf.epsilon_release
    if release is None:
        release = count * conf.noise_var
    return SvtScales(
        count=count,
        threshold=conf.gamma / threshold,
        query=2 * count * conf.gamma / (conf.epsilon - threshold),
        release=2 * count * conf.gamma / release,
        epsilon_selection=conf.epsilon,
    )


def flare28_price(conf: SvtFlare28Conf, size: int) -> SparseVectorPrice:
    """The price of one round for one site under replace_one; see the module for the proof."""
    scales = flare28_scales(conf, size)
    return SparseVectorPrice(
        scales.epsilon_selection, 2 * conf.gamma / scales.release, scales.count
    )


def check_flare28(conf: SvtFlare28Conf) -> None:
    """Refuse parameters for which the filter is undefined, never ends or has no price.

    Raises:
        ConfigError: names the key, the value and what is allowed.
    """
    check_svt(conf)
    if conf.epsilon > LARGEST:
        allowed = f"at most {LARGEST:g}, beyond which no accountant can price it"
        raise ConfigError("algorithm.epsilon", conf.epsilon, allowed, "algorithm.epsilon=0.1")
    threshold, release = conf.epsilon_threshold, conf.epsilon_release
    if threshold is not None and not 0 < threshold < conf.epsilon:
        allowed = f"above 0 and below algorithm.epsilon={conf.epsilon:g}, or null"
        fix = "algorithm.epsilon_threshold=null"
        raise ConfigError("algorithm.epsilon_threshold", threshold, allowed, fix)
    if release is not None and not (math.isfinite(release) and release > 0):
        fix = "algorithm.epsilon_release=null"
        raise ConfigError("algorithm.epsilon_release", release, "finite and > 0, or null", fix)


def flare28_filter(
    update: NDArray[np.float64], conf: SvtFlare28Conf, steps: int, tau: float, rng: LaplaceSource
) -> NDArray[np.float64]:
    """What leaves the site: at most ``c`` noisy coordinates of a ``(d,)`` update, zero elsewhere.

    With u = update / steps, and ``clip`` cutting at +-gamma: coordinates are chosen by
    ``|clip(u_i)|`` (``selection.select_above_threshold``) and leave as
    ``(clip(u_i) + Lap(b)) * steps``.

    Args:
        update: finite difference of weights.
        conf: the parameters; ``conf.tau`` is not used.
        steps: local optimiser steps K of the round.
        tau: the threshold of this round, per local step.
        rng: source of all randomness.

    Raises:
        ProtectionError: see ``svt.check_filtered``; or too few coordinates pass the threshold.
        ConfigError: see ``check_flare28``.
    """
    check_flare28(conf)
    check_filtered(update, steps, tau)
    scales = flare28_scales(conf, update.size)
    clipped = np.clip(update / steps, -conf.gamma, conf.gamma)
    chosen = select_above_threshold(np.abs(clipped), tau, scales, conf.replace, rng)
    result = np.zeros_like(update)
    result[chosen] = (clipped[chosen] + rng.laplace(0.0, scales.release, chosen.size)) * steps
    return check_noisy(result, WHO)


@dataclass(frozen=True)
class SvtFlare28Filter:
    """Sparse-vector filter on the update; the strength scales the threshold ``tau``.

    Attributes:
        conf: the parameters, under FLARE's names.
    """

    conf: SvtFlare28Conf

    name = "svt_flare28"
    placement = _PLACEMENT

    def __post_init__(self) -> None:
        check_flare28(self.conf)

    @staticmethod
    def from_conf(conf: SvtFlare28Conf) -> SvtFlare28Filter:
        """The mechanism of a configuration.

        Raises:
            ConfigError: a value is out of range.
        """
        return SvtFlare28Filter(conf)

    def train(self, task: LocalTask) -> Trained:
        """Plain local training; the protection acts on the update."""
        return train_plain(task)

    def protect(self, update: torch.Tensor, task: LocalTask, trained: Trained) -> Protected:
        """Filter the update; the update as it is where the schedule is off.

        Raises:
            ProtectionError: the update is not a finite flat vector, or too few coordinates pass.
        """
        check_update(update)
        if task.strength is None:
            return Protected(update)
        tau, rng = self.conf.tau * task.strength, task.streams.numpy("noise")
        values = update.cpu().numpy().astype(np.float64)
        filtered = flare28_filter(values, self.conf, trained.steps, tau, rng)
        result = torch.from_numpy(filtered.astype(np.float32))
        check_update(result)
        released = int(np.count_nonzero(filtered))
        b = flare28_scales(self.conf, update.numel()).release
        return Protected(result, noise_norm=trained.steps * b * math.sqrt(2 * released))

    def release(self, task: LocalTask, trained: Trained) -> Release:
        """The selection and c Laplace releases, for one site under replace_one."""
        if task.strength is None:
            return off_schedule_release("site", "replace_one")
        size = task.parameters.size
        scales, price = flare28_scales(self.conf, size), flare28_price(self.conf, size)
        details: dict[str, float | int | str] = {
            "eps_sel": price.selection,
            "eps_per_value": price.per_coordinate,
            "eps_pure": price.pure,
            "rho": price.rho,
            "c": scales.count,
            "d": size,
            "lam_rho": scales.threshold,
            "lam_nu": scales.query,
            "b": scales.release,
            "gamma": self.conf.gamma,
            "tau": self.conf.tau * task.strength,
            "replace": str(self.conf.replace).lower(),
            "steps": trained.steps,
            "strength": task.strength,
            "assumed": ASSUMED,
        }
        return Release(price.dp_event, "site", "replace_one", "", details)

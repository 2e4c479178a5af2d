"""A self-test of the training engine and its ledger: canaries whose gradients are known.

Every canary's gradient is a unit vector on a coordinate of its own (a Dirac canary: Nasr et al.
2023, arXiv 2302.07956, section 5), so each coordinate of what a step releases tells of one coin,
and the best attack is known. Rigorous bounds must then stay below the epsilon that the ledger
proves, and an estimate must come near it: an engine with too little noise, no clip, another
sampling rate or a round without its filter shows more than its ledger allows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import nn

from fedprivacy.accounting.claims import claim
from fedprivacy.accounting.events import Event
from fedprivacy.accounting.ledger import Ledger
from fedprivacy.accounting.profile import privacy_profile
from fedprivacy.accounting.what_if import gaussian_epsilon
from fedprivacy.audit.f_dp_run import profile_inverse, rejects
from fedprivacy.audit.many_runs import clopper_pearson_epsilon, gaussian_mu_estimate
from fedprivacy.audit.one_run import LowerBound, guess_counts, one_run_bound, right_guesses
from fedprivacy.errors import AccountingError
from fedprivacy.mechanisms.dpsgd import DpSgd
from fedprivacy.mechanisms.sampling import step_batches
from fedprivacy.mechanisms.statements import events_of
from fedprivacy.training.parameters import FlatParameters
from fedprivacy.training.randomness import Streams
from fedprivacy.training.task import LocalTask, OptimizerSpec

Floats = NDArray[np.float64]
Train = Callable[[DpSgd, LocalTask], Any]
"""Runs one round; returns what ``DpSgd.train`` returns."""

_GAIN = 8.0
_THRESHOLDS = 20
_ALPHA = 1e-6
_RUNS_AT_ONCE = 1000


@dataclass(frozen=True)
class SelfTest:
    """What the self-test found.

    Attributes:
        proven: epsilon that the ledger proves for one record, zero_out; an upper bound.
        lower: the rigorous one-run bound; must not exceed ``proven``.
        estimate: epsilon of a Gaussian fit, an estimate and no bound.
        rejected: whether the one-run test rejects the ledger's own curve.
        delta: of all of them.
        sampling_p: probability of the engine's batch sizes under the sampling that is billed; None
            where nothing is billed to sampling.
        noise_p: probability of as little noise as the engine's, under the noise that is billed;
            on the coordinates of canaries that were left out there is nothing else.
    """

    proven: float
    lower: LowerBound
    estimate: float
    rejected: bool
    delta: float
    sampling_p: float | None = None
    noise_p: float = 1.0

    @property
    def passed(self) -> bool:
        """Whether nothing contradicts the ledger."""
        as_billed = self.sampled_as_billed and self.noised_as_billed
        return as_billed and not self.rejected and self.lower.epsilon <= self.proven

    @property
    def noised_as_billed(self) -> bool:
        """Whether there is no less noise than the ledger bills."""
        return self.noise_p >= _ALPHA

    @property
    def sampled_as_billed(self) -> bool:
        """Whether the batches are as even and as uneven as independent sampling makes them."""
        return self.sampling_p is None or self.sampling_p >= _ALPHA

    def summary(self) -> str:
        """One line for a reader."""
        failed = "FAILED: the engine shows more than its ledger allows"
        if not self.sampled_as_billed:
            failed = "FAILED: batches are not sampled as the ledger bills them"
        elif not self.noised_as_billed:
            failed = "FAILED: the engine adds less noise than its ledger bills"
        verdict = "passed" if self.passed else failed
        return (
            f"engine self-test {verdict}: proven epsilon {self.proven:.3f} (upper bound), measured "
            f"at least {self.lower.epsilon:.3f} (95 %), Gaussian estimate {self.estimate:.3f} "
            f"(no bound), delta {self.delta:g}, {self.lower.coins} canaries"
        )


class Diagonal(nn.Module):
    """One weight for each canary: the output of canary i is a multiple of weight i.

    Args:
        size: number of canaries.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(size, 1, bias=False)
        nn.init.zeros_(self.layer.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(n, 1)`` of one-hot rows ``(n, size)``."""
        logits: torch.Tensor = self.layer(x)
        return logits


def linear_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean of ``-gain * logit``: the gradient of canary i is -gain on coordinate i, wherever."""
    return -_GAIN * (logits[:, 0] * (target >= 0)).mean()


def engine_selftest(
    mechanism: DpSgd,
    *,
    canaries: int,
    rounds: int,
    local_epochs: float,
    seed: int,
    delta: float = 1e-5,
    train: Train = DpSgd.train,
    device: torch.device | str = "cpu",
) -> SelfTest:
    """Audit the mechanism's own training and pricing.

    Args:
        mechanism: clipping ``flat``; plain SGD without momentum is used, so that the weights are
            the sum of what the steps released.
        canaries: m, one coordinate each; about half of them are trained on.
        rounds: rounds, each one release.
        local_epochs: of a round; steps = local_epochs / sampling_rate.
        seed: of coins and noise.
        delta: at which epsilon is meant.
        train: runs a round; another one is given to see whether a broken engine is noticed.
        device: where the mechanism trains and draws its noise.
    """
    coins = np.random.default_rng([seed, 1]).random(canaries) < 0.5
    eye = torch.eye(canaries)[torch.from_numpy(np.flatnonzero(coins))].to(device)
    parameters = FlatParameters(Diagonal(canaries).to(device))
    observed, events, sizes, steps = [], list[Event](), [], 0
    for number in range(1, rounds + 1):
        task = LocalTask(
            parameters=parameters,
            loss=linear_loss,
            x=eye,
            y=torch.ones(len(eye), device=device),
            optimizer=OptimizerSpec("sgd", 1.0),
            batch_size=len(eye),
            local_epochs=local_epochs,
            strength=1.0,
            streams=Streams(seed, "seeded", number, 0),
        )
        before = parameters.snapshot()
        trained = train(mechanism, task)
        observed.append((parameters.snapshot() - before).double().cpu().numpy())
        sizes += trained.batch_sizes
        steps += trained.steps
        events += events_of(mechanism.release(task, trained), mechanism.name, "a", task)
    scores = _scores(mechanism, observed)
    return replace(
        _judged(scores, coins, events, delta),
        sampling_p=_sampling_p(mechanism, sizes, len(eye)),
        noise_p=noise_p_value(scores[0][~coins], mechanism.noise_multiplier, steps),
    )


def noise_p_value(released: Floats, noise_multiplier: float, steps: int) -> float:
    """Probability of so little noise: a chi-square test on coordinates that hold nothing else.

    Args:
        released: ``(n,)`` sums over all steps, in units of the clip norm.
        noise_multiplier: billed, of each step.
        steps: billed.
    """
    variance = steps * noise_multiplier**2
    return float(stats.chi2.cdf(float((released**2).sum()) / variance, len(released)))


def _sampling_p(mechanism: DpSgd, sizes: Sequence[int], records: int) -> float | None:
    """Whether the engine's own batches follow the law that its ledger bills."""
    if mechanism.sampling != "poisson" or mechanism.sampling_rate == 1 or not sizes:
        return None
    return batch_size_p_value(sizes, records, mechanism.sampling_rate)


def _scores(mechanism: DpSgd, observed: Sequence[Floats]) -> list[Floats]:
    """Scores of each canary: the sum of all rounds' releases, and each round by itself.

    The sum is the best score at q = 1; below, it loses a little against the likelihood ratio of
    each step, which weights alone do not show. A round that was not protected stands out by itself.
    """
    scale = mechanism.divisor / mechanism.max_grad_norm
    rounds = [one * scale for one in observed]
    total = np.asarray(np.sum(rounds, axis=0))
    return [total, *rounds] if len(rounds) > 1 else [total]


def _judged(
    scores: Sequence[Floats], coins: NDArray[np.bool_], events: list[Event], delta: float
) -> SelfTest:
    m = len(coins)
    counts = guess_counts(m)
    tried = len(counts) * len(scores)
    bounds = [one_run_bound(s, coins, delta=delta, counts=counts, tried=tried) for s in scores]
    stated = claim(Ledger(tuple(events)), "record", "server_updates", delta)
    if stated.neighbouring is None:
        raise AccountingError(f"the engine states nothing of one record: {stated.reason}")
    inverse = profile_inverse(privacy_profile(stated.events, stated.neighbouring))
    rejected = any(
        rejects(right_guesses(s, coins, r), r, m, inverse, 0.05 / tried)
        for s in scores
        for r in counts
    )
    # Thresholds are quantiles of all scores, which tell nothing of the coins.
    thresholds = np.quantile(scores[0], np.linspace(0.02, 0.98, _THRESHOLDS))
    mu = gaussian_mu_estimate(scores[0], coins, thresholds.tolist())
    return SelfTest(
        proven=stated.total.epsilon,
        lower=max(bounds, key=lambda bound: bound.epsilon),
        estimate=gaussian_epsilon(mu, delta) if mu > 0 else 0.0,
        rejected=rejected,
        delta=delta,
    )


def batch_size_p_value(sizes: Sequence[int], records: int, rate: float) -> float:
    """Probability of batch sizes at least as even or uneven under Poisson sampling.

    Independent sampling makes a batch's size Binomial(n, q), so their sum of squares over the
    variance n q (1 - q) is about chi-square; shuffled batches are all alike. Two-sided.

    Args:
        sizes: of the batches.
        records: n.
        rate: q.
    """
    variance = records * rate * (1 - rate)
    total = float(((np.asarray(sizes) - records * rate) ** 2).sum() / variance)
    below = float(stats.chi2.cdf(total, len(sizes)))
    return 2 * min(below, 1 - below)


def one_pass_epsilon(
    sampling: str, noise_multiplier: float, batches: int, runs: int, seed: int, delta: float
) -> float:
    """Lower bound on epsilon of one pass over a site's batches, from noise-only runs.

    The pair of Chua et al. 2024 (arXiv 2403.17673): all records but one give -1 norm, the attacked
    one +1 or nothing. Shuffled, its batch stands out of all others, which Poisson sampling would
    hide. The batches are the engine's own sampler's, as many records as batches. Event: the largest
    sum exceeds a threshold, which is chosen on a first half of the runs and tested on the other
    (Clopper-Pearson, 95 %).

    Args:
        sampling: ``poisson`` or ``shuffle``.
        noise_multiplier: noise over clip norm.
        batches: T of the pass.
        runs: noise-only runs of each of the two worlds.
        seed: of the draws.
        delta: at which epsilon is meant.
    """
    rng = np.random.default_rng([seed, 2])
    draws = torch.Generator().manual_seed(int(rng.integers(2**62)))
    worlds = []
    for attacked in (0.0, 1.0):
        sums = _sums(sampling, batches, runs, attacked, draws)
        worlds.append((sums + rng.normal(0.0, noise_multiplier, sums.shape)).max(axis=1))
    half = runs // 2
    grid = np.quantile(worlds[1][:half], np.linspace(0.01, 0.99, 60))

    def gain(threshold: float) -> float:
        hits = float((worlds[1][:half] > threshold).mean()) - delta
        alarms = float((worlds[0][:half] > threshold).mean()) + 1 / half
        return hits / alarms

    best = max(grid.tolist(), key=gain)
    scores = np.concatenate([worlds[0][half:], worlds[1][half:]])
    inside = np.arange(len(scores)) >= runs - half
    return clopper_pearson_epsilon(scores, inside, [best], delta=delta)


def _sums(
    sampling: str, batches: int, runs: int, attacked: float, draws: torch.Generator
) -> Floats:
    """``(runs, batches)`` sums of clipped gradients, of which record 0 gives ``attacked``."""
    parts = []
    for start in range(0, runs, _RUNS_AT_ONCE):
        steps = min(_RUNS_AT_ONCE, runs - start) * batches
        drawn = list(step_batches(sampling, batches, 1 / batches, steps, draws))
        owner = np.repeat(np.arange(steps), [len(batch) for batch in drawn])
        gives = np.where(torch.cat(drawn).numpy() == 0, attacked, -1.0)
        parts.append(np.bincount(owner, gives, minlength=steps).reshape(-1, batches))
    return np.concatenate(parts)

"""What an audit found, in numbers that say what they are: the ``audit`` block of a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedprivacy.accounting.profile import Profile
from fedprivacy.accounting.units import VIEWS, View, view_contains
from fedprivacy.accounting.what_if import gaussian_epsilon
from fedprivacy.audit.f_dp_run import gaussian_lower_mu, profile_inverse, rejects
from fedprivacy.audit.many_runs import clopper_pearson_ceiling, clopper_pearson_epsilon
from fedprivacy.audit.membership import membership
from fedprivacy.audit.one_run import guess_counts, one_run_bound, right_guesses

ATTACKS: dict[View, str] = {
    "server_updates": "how much of a record's gradient is in its site's updates, all rounds",
    "aggregate": "how much of a record's gradient is in the averages, all rounds",
    "final_model": "loss under the final model",
}
RELATION = "add_remove"
"""What a coin decides: whether a record is there."""
CLAIM = "as private as its protected rounds"
ZERO = (
    "A lower bound of 0 means that this attack found nothing; it is no evidence of privacy. Only a "
    "proof is an upper bound, and another attack may find more."
)
GAUSSIAN_METHOD = "one run against Gaussian curves (Mahloujifar, Melis & Chaudhuri 2024)"
INDEPENDENT_METHOD = "error rates of the canaries (Clopper-Pearson; Jagielski, Ullman & Oprea 2020)"
KNOWS = (
    "The attacker knows the model, the schedule and all of the site's records but the coins of the "
    "canaries; one record, added or not."
)


@dataclass(frozen=True)
class Assessment:
    """An audit's outcome.

    Attributes:
        block: strict JSON.
        rejected: whether the cell's claim was tested and rejected; None: there was none to test.
    """

    block: dict[str, Any]
    rejected: bool | None


def assess(
    scores: Mapping[View, NDArray[np.float64]],
    included: NDArray[np.bool_],
    *,
    view: View,
    delta: float,
    confidence: float,
    shares: Sequence[float],
    claimed: Sequence[Profile] = (),
) -> Assessment:
    """Bounds, membership and the test of the claim, for the views that the adversary has.

    Args:
        scores: ``(m,)`` by view, larger means more likely trained on.
        included: ``(m,)`` the coins.
        view: the adversary's.
        delta: at which epsilon is meant.
        confidence: of the largest bound, and of the test, over all views and guess counts.
        shares: of the canaries that are guessed, fixed beforehand.
        claimed: proven profiles of the protected releases, of each site; empty: nothing to test.
    """
    views = [one for one in VIEWS if one in scores and view_contains(view, one)]
    counts = guess_counts(len(included), shares)
    tried = len(views) * len(counts)
    alpha = (1 - confidence) / tried
    per_view: dict[str, Any] = {}
    for one in views:
        bound = one_run_bound(
            scores[one], included, delta=delta, confidence=confidence, counts=counts, tried=tried
        )
        told = membership(ATTACKS[one], scores[one], included)
        per_view[one] = {
            **bound.to_json(),
            "under_assumptions": _assuming(scores[one], included, counts, delta, alpha),
            "membership": told.to_json(),
        }
    best = max(per_view.values(), key=lambda item: float(item["epsilon_lower"]))
    rejected, could = _tested(scores, included, views, counts, alpha, claimed)
    block = {
        **{key: best[key] for key in best if key not in ("membership", "under_assumptions")},
        "unit": "record",
        "neighbouring": RELATION,
        "view": view,
        "attacker": KNOWS,
        "guess_counts": list(counts),
        "bounds_tried": tried,
        "per_view": per_view,
        "membership": per_view[views[0]]["membership"],
        "claim": {
            "words": CLAIM,
            "rejected": rejected,
            "could_reject": could,
            "confidence": confidence,
        },
        "reconstruction": None,
        "about": ZERO,
    }
    return Assessment(block, rejected)


def _assuming(
    scores: NDArray[np.float64],
    included: NDArray[np.bool_],
    counts: Sequence[int],
    delta: float,
    alpha: float,
) -> dict[str, Any]:
    """Bounds that hold only under assumptions which one run cannot make good; stated with them.

    Each stands with the most that it could have been, had every guess been right.
    """
    right = [right_guesses(scores, included, r) for r in counts]
    # Thresholds between the guessed and the others; ranks say nothing of the coins.
    ordered = np.sort(scores)
    thresholds = [float(ordered[-min(r + 1, len(ordered))]) for r in counts]
    members, together = int(included.sum()), 1 - alpha * len(counts)
    independent = clopper_pearson_epsilon(
        scores, included, thresholds, delta=delta, confidence=together
    )
    most = clopper_pearson_ceiling(
        members, len(included) - members, counts, delta=delta, confidence=together
    )
    return {
        "f_dp_if_the_curve_is_gaussian": {
            "epsilon_lower": _gaussian(right, counts, len(included), delta, alpha),
            "ceiling": _gaussian(counts, counts, len(included), delta, alpha),
            "method": GAUSSIAN_METHOD,
            "assumption": "the trade-off curve is a Gaussian one",
        },
        "clopper_pearson_if_canaries_were_independent": {
            "epsilon_lower": independent,
            "ceiling": most,
            "method": INDEPENDENT_METHOD,
            "assumption": "the canaries of one run are independent",
        },
    }


def _gaussian(
    right: Sequence[int], counts: Sequence[int], coins: int, delta: float, alpha: float
) -> float:
    """Epsilon of the largest Gaussian curve that so many right guesses reject; 0 if none is."""
    mu = max(gaussian_lower_mu(v, r, coins, alpha) for v, r in zip(right, counts, strict=True))
    return gaussian_epsilon(mu, delta) if mu else 0.0


def _tested(
    scores: Mapping[View, NDArray[np.float64]],
    included: NDArray[np.bool_],
    views: Sequence[View],
    counts: Sequence[int],
    alpha: float,
    claimed: Sequence[Profile],
) -> tuple[bool | None, bool | None]:
    """Whether the one-run test rejects the claim's own curve in any view; whether it could have.

    It could where every guess being right would reject. Both None where nothing is claimed.
    """
    if not claimed:
        return None, None
    inverses = [profile_inverse(profile) for profile in {id(p): p for p in claimed}.values()]

    def inverse(rate: float) -> float:
        """Of the site that is protected least."""
        return min(one(rate) for one in inverses)

    def beyond(right: int, guesses: int) -> bool:
        return rejects(right, guesses, len(included), inverse, alpha)

    rejected = any(
        beyond(right_guesses(scores[view], included, r), r) for view in views for r in counts
    )
    return rejected, any(beyond(r, r) for r in counts)

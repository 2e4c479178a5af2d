"""What choosing the best of several runs costs, where only the best is published."""

from __future__ import annotations

from dp_accounting import dp_event as dp
from dp_accounting.rdp import RdpAccountant

from fedprivacy.accounting.pld import RELATIONS
from fedprivacy.accounting.units import Neighbouring
from fedprivacy.errors import AccountingError


def search_epsilon(
    event: dp.DpEvent, mean: float, shape: float, delta: float, neighbouring: Neighbouring
) -> float:
    """Upper bound on epsilon of K independent runs of which only the best is published.

    K is random and drawn before the first run: truncated negative binomial with ``shape`` (0:
    logarithmic, the cheapest; 1: geometric), or Poisson (``inf``) (Papernot & Steinke 2022,
    arXiv 2110.03620, theorems 2 and 6). A search that looks at earlier runs (TPE, pruning), shows
    all of them or fixes K beforehand is not covered: compose its runs instead.

    Args:
        event: one run, its score included.
        mean: of K, at least 1.
        shape: at least 0; ``inf`` for a Poisson K.
        delta: probability with which the bound may fail.
        neighbouring: relation of the event, ``zero_out`` or ``add_remove``.

    Raises:
        AccountingError: a parameter is out of range, or the event has no Renyi bound.
    """
    if not (mean >= 1 and shape >= 0) or neighbouring == "replace_one":
        raise AccountingError(
            f"mean={mean!r}, shape={shape!r}, neighbouring={neighbouring!r}: allowed is a mean "
            "from 1, a shape from 0, zero_out or add_remove"
        )
    accountant = RdpAccountant(neighboring_relation=RELATIONS[neighbouring])
    accountant.compose(dp.RepeatAndSelectDpEvent(event, mean, shape))
    return float(accountant.get_epsilon(delta))

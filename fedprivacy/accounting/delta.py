"""Delta: the probability with which the bound may fail, kept well below one in the records."""

from __future__ import annotations

import math

from fedprivacy.errors import AccountingError, ConfigError


def default_delta(largest_site: int) -> float:
    """``min(1e-5, 1 / (10 n))`` with n the number of records of the largest site.

    At delta = 1/n a mechanism that publishes one record at random would pass; the factor ten
    keeps away from that (Dwork & Roth 2014, section 2.3).

    Raises:
        AccountingError: ``largest_site`` is not positive.
    """
    if largest_site < 1:
        raise AccountingError(f"largest_site={largest_site!r}: a site has at least one record")
    return min(1e-5, 1.0 / (10.0 * largest_site))


def resolve_delta(requested: float | None, largest_site: int) -> float:
    """The delta to state bounds at: the default, or a smaller one that was asked for.

    Raises:
        ConfigError: ``requested`` is not above zero, or larger than the default.
    """
    largest = default_delta(largest_site)
    if requested is None:
        return largest
    if not (math.isfinite(requested) and 0.0 < requested <= largest):
        raise ConfigError(
            "privacy.delta",
            requested,
            f"above 0 and at most min(1e-5, 1 / (10 n)) = {largest:.3g}, "
            f"n = {largest_site} records at the largest site",
            f"set privacy.delta={largest:.3g} or less, or leave it null",
        )
    return requested

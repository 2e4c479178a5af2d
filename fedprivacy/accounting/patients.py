"""From one record to one patient: what a record-level event means for someone with k records."""

from __future__ import annotations

from dp_accounting import dp_event as dp
from scipy import stats

from fedprivacy.accounting.units import Neighbouring
from fedprivacy.errors import AccountingError


def patient_event(event: dp.DpEvent, records: int, neighbouring: Neighbouring) -> dp.DpEvent:
    """The record-level ``event``, restated for a patient with up to ``records`` records.

    A Poisson-sampled Gaussian becomes a mixture of Gaussians: each of the k records enters a step
    with probability q on its own, so the patient moves the sum by Binomial(k, q) clip norms
    (Ganesh 2024, arXiv 2401.10294; vector-valued by corollary 4.7 of Choquette-Choo, Ganesh,
    Steinke & Thakurta 2023, arXiv 2310.15526). Without sampling the patient moves it by k norms.
    Patients with fewer records are covered. Generic group privacy would be far looser.

    Args:
        event: a record-level event.
        records: most records that one patient has at the site, at least 1.
        neighbouring: the relation of the event; the result is for the same relation, with all
            records of the patient zeroed, removed or replaced together.

    Raises:
        AccountingError: no such restatement is known, or ``records`` < 1.
    """
    if records < 1:
        raise AccountingError(f"records per patient={records!r}: a patient has at least one record")
    if records == 1 or isinstance(event, (dp.NoOpDpEvent, dp.NonPrivateDpEvent)):
        return event
    if isinstance(event, dp.SelfComposedDpEvent):
        return dp.SelfComposedDpEvent(
            patient_event(event.event, records, neighbouring), event.count
        )
    if isinstance(event, dp.ComposedDpEvent):
        return dp.ComposedDpEvent(
            tuple(patient_event(part, records, neighbouring) for part in event.events)
        )
    if isinstance(event, (dp.GaussianDpEvent, dp.LaplaceDpEvent)):
        return type(event)(event.noise_multiplier / records)
    if isinstance(event, dp.RandomizedResponseDpEvent):
        return dp.SelfComposedDpEvent(event, records)
    if isinstance(event, dp.PoissonSampledDpEvent):
        return _sampled(event, records, neighbouring)
    raise AccountingError(
        f"{type(event).__name__} has no known bound for a patient with {records} records"
    )


def _sampled(
    event: dp.PoissonSampledDpEvent, records: int, neighbouring: Neighbouring
) -> dp.DpEvent:
    rate, inner = event.sampling_probability, event.event
    if isinstance(inner, (dp.NoOpDpEvent, dp.NonPrivateDpEvent)) or rate in (0, 1):
        return dp.PoissonSampledDpEvent(rate, patient_event(inner, records, neighbouring))
    if not isinstance(inner, dp.GaussianDpEvent) or neighbouring == "replace_one":
        raise AccountingError(
            f"Poisson sampling of {type(inner).__name__} under {neighbouring} has no known bound "
            f"for a patient with {records} records"
        )
    counts = range(records + 1)
    shares = [float(stats.binom.pmf(count, records, rate)) for count in counts]
    return dp.MixtureOfGaussiansDpEvent(
        inner.noise_multiplier, tuple(float(count) for count in counts), tuple(shares)
    )

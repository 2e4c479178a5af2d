"""The derivation of a statement in words, so that a reader who distrusts it can follow by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dp_accounting import dp_event as dp

from fedprivacy.accounting.claims import Claim
from fedprivacy.accounting.events import Event
from fedprivacy.accounting.ledger import Ledger
from fedprivacy.accounting.reasons import round_words
from fedprivacy.accounting.statement import PrivacyStatement

_SOURCES = (
    (
        dp.PoissonSampledDpEvent,
        "sampling: Poisson, each record on its own with the declared rate; amplification by the "
        "dominating pair of each direction (Zhu, Dong & Wang 2022, arXiv 2106.08567)",
    ),
    (
        dp.MixtureOfGaussiansDpEvent,
        "patients: mixture of Gaussians over the number of their records in a step "
        "(Ganesh 2024, arXiv 2401.10294)",
    ),
    (
        dp.GaussianDpEvent,
        "Gaussian noise: sensitivity 1 in units of the clip norm, 2 under replace_one "
        "(Balle & Wang 2018); also stands for noisy-maximum choices "
        "(`mechanisms.selection.bounded_range_epsilon`)",
    ),
    (dp.LaplaceDpEvent, "Laplace noise: L1 sensitivity in units of the bound (Dwork et al. 2006)"),
    (
        dp.RandomizedResponseDpEvent,
        "randomised response: also stands for any mechanism with only a pure bound "
        "(Kairouz, Oh & Viswanath 2015)",
    ),
    (
        dp.TruncatedSubsampledGaussianDpEvent,
        "truncated Poisson batches (arXiv 2508.15089)",
    ),
)


def describe(event: dp.DpEvent) -> str:
    """One release in words, with its parameters in full."""
    if isinstance(event, dp.NoOpDpEvent):
        return "nothing new (post-processing)"
    if isinstance(event, dp.NonPrivateDpEvent):
        return "raw, nothing proved"
    if isinstance(event, dp.SelfComposedDpEvent):
        return f"{event.count} x {describe(event.event)}"
    if isinstance(event, dp.ComposedDpEvent):
        return "(" + " and ".join(describe(part) for part in event.events) + ")"
    if isinstance(event, dp.PoissonSampledDpEvent):
        return f"[each unit with probability {event.sampling_probability:g}] " + describe(
            event.event
        )
    if isinstance(event, dp.GaussianDpEvent):
        return f"Gaussian noise of {event.noise_multiplier:.6g} clip norms"
    if isinstance(event, dp.RandomizedResponseDpEvent):
        keep = 1 - event.noise_parameter * (1 - 1 / event.num_buckets)
        return (
            f"randomised response among {event.num_buckets}, the truth with probability {keep:.6g}"
        )
    if isinstance(event, dp.LaplaceDpEvent):
        return f"Laplace noise of scale {event.noise_multiplier:.6g} bounds"
    return repr(event)


def explain(statement: PrivacyStatement) -> str:
    """How the statement's epsilon was derived: releases, composition, theorems, assumptions."""
    subject = statement.claim
    lines = [
        _headline(statement),
        "",
        f"Basis: {subject.derivation or 'none'}.",
        *_releases(subject),
        "",
        "Composition:",
        *(f"  {line}" for line in _composition(statement)),
        "",
        "Assumed:",
        *(f"  - {line}" for line in statement.assumptions),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _headline(statement: PrivacyStatement) -> str:
    terms = (
        f"one {statement.unit}, {statement.neighbouring}, adversary sees {statement.view}, "
        f"delta {statement.delta:g}"
    )
    if statement.infinite:
        return f"epsilon: infinite ({terms}). Why: {statement.reason}."
    return f"epsilon <= {statement.epsilon:.4f} ({terms}), proved."


def _releases(subject: Claim) -> Iterable[str]:
    ledger = Ledger(subject.events)
    alike: dict[tuple[str, ...], list[str]] = {}
    for name in ledger.sites:
        alike.setdefault(tuple(_runs(ledger.site(name).events)), []).append(name)
    for lines, names in alike.items():
        yield ""
        yield f"Releases of {', '.join(names)}:"
        yield from (f"  {line}" for line in lines)


def _runs(events: Sequence[Event]) -> Iterable[str]:
    same: dict[tuple[str, dp.DpEvent, bool, str], list[Event]] = {}
    for event in events:
        key = (event.mechanism, event.dp_event, event.protected, event.reason)
        same.setdefault(key, []).append(event)
    for (mechanism, release, protected, reason), group in same.items():
        state = "" if protected else ", protection off"
        why = f" ({reason})" if reason else ""
        yield f"{round_words(group)}: {mechanism}{state}: {describe(release)}{why}"


def _composition(statement: PrivacyStatement) -> Iterable[str]:
    subject = statement.claim
    if subject.neighbouring is None or not subject.events:
        yield "nothing to compose"
        return
    yield (
        "each site: privacy loss distributions convolved over all its releases, adaptively chosen "
        "ones included (Gopi, Lee & Wutschitz 2021, arXiv 2106.02848)"
    )
    yield (
        f"accountant: {statement.accountant} (Doroshenko et al. 2022, arXiv 2207.04380); the worse "
        "direction of the relation (Lebeda et al. 2024, arXiv 2405.20769)"
    )
    kinds = {type(part) for event in subject.events for part in _parts(event.dp_event)}
    yield from (words for kind, words in _SOURCES if kind in kinds)
    for name, site in subject.per_site.items():
        protected = site.protected.epsilon if site.protected else None
        alone = "" if protected is None else f"; protected rounds alone {protected:.4f}"
        yield f"{name}: epsilon {site.total.epsilon:.4f}{alone}".replace("inf", "infinite")
    if len(subject.per_site) > 1:
        yield f"sites hold different patients: the worst counts, {subject.worst_site}"


def _parts(event: dp.DpEvent) -> Iterable[dp.DpEvent]:
    yield event
    if isinstance(event, dp.ComposedDpEvent):
        for part in event.events:
            yield from _parts(part)
    elif isinstance(event, (dp.SelfComposedDpEvent, dp.PoissonSampledDpEvent)):
        yield from _parts(event.event)

"""The article's observations beside ours, and what it could not say of its own settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedprivacy.pricing.intervals import Interval, paired_mean
from fedprivacy.pricing.price import Price
from fedprivacy.pricing.twins import flatten
from fedprivacy.report.price_table import measured_text
from fedprivacy.report.rows import Row
from fedprivacy.report.words import MISSING, epsilon_text, protected_text
from fedprivacy.result import CellResult

AGREES, DISAGREES = "agrees", "does not"
CANNOT_TELL, NOT_SETTLED, NOT_RUN = "a stand-in cannot tell", "not settled", "not run"
COMMAND = "fedprivacy run +sweeps=article"
SMALL_LOSS = 0.02
RULES = (
    "Rules: a figure is a mean over seeds of differences paired by seed, with a 95 % bootstrap "
    "interval. An observation agrees, or does not, where the whole interval says so. Where the "
    "interval holds both answers, or there is one seed, nothing is settled: of made-up records "
    "that "
    "reads a stand-in cannot tell. What made-up records do say is of them, not of patients."
)
CASES = ("ixi_tiny", "breast_density", "higgs")


@dataclass(frozen=True)
class Finding:
    """One observation of the article and ours.

    Attributes:
        observation: what the article saw.
        figure: ours, in words, with its interval.
        answer: agrees, does not, a stand-in cannot tell, not settled, or not run.
    """

    observation: str
    figure: str
    answer: str

    def line(self) -> dict[str, str]:
        """As a line of a table."""
        return {"the article": self.observation, "here": self.figure, "answer": self.answer}


def findings(results: Sequence[CellResult]) -> list[Finding]:
    """All observations, also those for which no cell was run."""
    return [
        _svt_first_beats_every(results),
        _svt_decaying_lies_between(results),
        _breast_density_is_most_sensitive(results),
        _higgs_loses_little(results, 95.0),
        _higgs_loses_little(results, 50.0),
        _federation_beats_local(results),
    ]


def _judged(
    observation: str, words: str, value: Interval | None, real: bool, holds: Callable[[float], bool]
) -> Finding:
    if value is None:
        return Finding(observation, f"run it: {COMMAND}", NOT_RUN)
    figure = f"{words} {value.text()}{'' if real else ', synthetic'}"
    open_answer = NOT_SETTLED if real else CANNOT_TELL
    if value.low is None or value.high is None:
        return Finding(observation, figure, open_answer)
    answers = {holds(value.low), holds(value.high)}
    if len(answers) == 2:
        return Finding(observation, figure, open_answer)
    return Finding(observation, figure, AGREES if answers.pop() else DISAGREES)


def _scores(results: Sequence[CellResult], **wanted: Any) -> dict[int, float]:
    """Score by seed of the cells that match; keys with a dot are settings."""
    found: dict[int, float] = {}
    for cell in results:
        settings = dict(flatten(cell.config))
        fits = all(
            settings.get(key.replace("__", ".")) == value
            if "__" in key
            else getattr(cell, key) == value
            for key, value in wanted.items()
        )
        if fits and cell.score is not None and cell.score.value is not None:
            found[cell.seed] = cell.score.value
    return found


def _difference(one: dict[int, float], other: dict[int, float]) -> Interval | None:
    return paired_mean([one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())])


def _real(results: Sequence[CellResult], dataset: str) -> bool:
    return not any(cell.synthetic for cell in results if cell.dataset == dataset)


def _svt(results: Sequence[CellResult], schedule: str) -> dict[int, float]:
    return _scores(
        results, dataset="ixi_tiny", algorithm="svt", schedule=schedule, federation="fedavg"
    )


def _svt_first_beats_every(results: Sequence[CellResult]) -> Finding:
    value = _difference(_svt(results, "first_round"), _svt(results, "every_round"))
    return _judged(
        "IXI: SVT in the first round only is far above SVT in every round",
        "Dice, first round minus every round:",
        value,
        _real(results, "ixi_tiny"),
        lambda d: d > 0.1,
    )


def _svt_decaying_lies_between(results: Sequence[CellResult]) -> Finding:
    first, every = _svt(results, "first_round"), _svt(results, "every_round")
    nth = _svt(results, "every_nth")
    shared = sorted(first.keys() & every.keys() & nth.keys())
    # Smaller than 0 as soon as it is outside: the nearer end decides.
    value = paired_mean([min(first[s] - nth[s], nth[s] - every[s]) for s in shared])
    return _judged(
        "IXI: SVT every second round with a decreasing threshold lies in between",
        "Dice, distance to the nearer of the two (negative: outside):",
        value,
        _real(results, "ixi_tiny"),
        lambda d: d > 0,
    )


def _losses(results: Sequence[CellResult], dataset: str) -> dict[int, float]:
    """Share of what was learned over chance that the Gaussian filter in every round costs."""
    twin = _scores(results, dataset=dataset, algorithm="none", federation="fedavg")
    own = _scores(
        results, dataset=dataset, algorithm="gaussian", schedule="every_round",
        algorithm__percentile=95.0,
    )  # fmt: skip
    chance = next(
        (c.score.chance for c in results if c.dataset == dataset and c.score is not None), 0.0
    )
    return {
        seed: (twin[seed] - own[seed]) / (twin[seed] - chance)
        for seed in twin.keys() & own.keys()
        if twin[seed] > chance
    }


def _breast_density_is_most_sensitive(results: Sequence[CellResult]) -> Finding:
    own = _losses(results, "breast_density")
    others = [_losses(results, name) for name in CASES if name != "breast_density"]
    shared = set(own).intersection(*others) if all(others) else set()
    value = paired_mean([own[s] - max(other[s] for other in others) for s in sorted(shared)])
    return _judged(
        "Breast density is the most sensitive case",
        "share of the gain over chance lost to the Gaussian filter, minus the worse of the others:",
        value,
        _real(results, "breast_density"),
        lambda d: d > 0,
    )


def _higgs_loses_little(results: Sequence[CellResult], percentile: float) -> Finding:
    twin = _scores(results, dataset="higgs", algorithm="none", federation="fedavg")
    own = _scores(
        results, dataset="higgs", algorithm="gaussian", schedule="every_round",
        algorithm__percentile=percentile,
    )  # fmt: skip
    return _judged(
        f"HIGGS: small loss with the Gaussian filter at percentile {percentile:g}",
        f"AUC lost (small: at most {SMALL_LOSS:g}):",
        _difference(twin, own),
        _real(results, "higgs"),
        lambda d: d <= SMALL_LOSS,
    )


def _federation_beats_local(results: Sequence[CellResult]) -> Finding:
    values, seen = [], []
    for name in CASES:
        own = _scores(
            results, dataset=name, algorithm="gaussian", schedule="every_round",
            algorithm__percentile=95.0,
        )  # fmt: skip
        for cell in results:
            if (cell.dataset, cell.algorithm, cell.federation) != (name, "none", "local"):
                continue
            models = [v for v in (cell.score.per_site.values() if cell.score else ()) if v]
            if models and cell.seed in own:
                values.append(own[cell.seed] - max(models))
                seen.append(name)
    cases = ", ".join(dict.fromkeys(seen))
    real = all(_real(results, name) for name in seen)
    return _judged(
        "Federated with DP is still above the best site alone",
        f"score, Gaussian filter in every round minus best local ({cases}):",
        paired_mean(values),
        real,
        lambda d: d > 0,
    )


def unsaid(rows: Sequence[Row], prices: dict[str, Price]) -> list[dict[str, str]]:
    """What FLARE's default SVT and its Gaussian filter buy and cost on each case that was run."""
    lines = []
    for row in rows:
        cell = row.first
        settings = dict(flatten(cell.config))
        wanted = cell.algorithm == "svt" or (
            cell.algorithm == "gaussian" and settings.get("algorithm.percentile") in (50.0, 95.0)
        )
        if not wanted or cell.schedule != "every_round":
            continue
        price, privacy = prices[cell.cell_id], row.privacy or {}
        lost = MISSING if price.score_lost is None else price.score_lost.text()
        lines.append(
            {
                "case": f"{cell.dataset}{' (synthetic)' if cell.synthetic else ''}",
                "setting": row.algorithm,
                "score lost": lost,
                "proof bought": epsilon_text(privacy),
                "protected rounds alone": protected_text(privacy),
                "what-if, no guarantee": _supposed(privacy.get("what_if")),
                "measured": measured_text(row),
                "collapsed": f"{len(price.collapsed)} of {len(row.cells)}",
            }
        )
    return lines


def _supposed(figure: Mapping[str, Any] | None) -> str:
    if not figure:
        return MISSING
    return f"epsilon {figure['epsilon']:.4g} (mu {figure['mu']:.4g})"

"""The article's observations beside ours, and what it could not say of its own settings."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy import stats

from fedprivacy.config.schema import SvtConf
from fedprivacy.pricing.intervals import paired_mean
from fedprivacy.pricing.price import Price, gain_left
from fedprivacy.pricing.twins import flatten
from fedprivacy.report.matching import (
    AmbiguousError,
    Figures,
    by_seed,
    exact_local,
    exact_twin,
    partner,
    selected,
    value,
)
from fedprivacy.report.price_table import measured_text
from fedprivacy.report.rows import Row
from fedprivacy.report.sensitivity import (
    CASES,
    EVERY,
    less_predictable,
    more_sensitive,
    protections,
)
from fedprivacy.report.words import MISSING, claim_text, delta_text, epsilon_text, protected_text
from fedprivacy.result import CellResult

AGREES, DISAGREES = "agrees", "does not"
CANNOT_TELL, NOT_SETTLED, NOT_RUN = "a stand-in cannot tell", "not settled", "not run"
COMMAND = "fedprivacy run +sweeps=article"
SMALL_LOSS = 0.02
RULES = (
    "Rules: a figure is a mean over seeds of differences paired by seed, with a 95 % bootstrap "
    "interval. An observation agrees, or does not, where all of it says so, and all of Student's "
    "interval, which is longer with few seeds. Where one of them holds both answers, or there is "
    "one seed, nothing is settled: of made-up records that reads a stand-in cannot tell. What "
    "made-up records do say is of them, not of patients. Pairs agree in every setting but the one "
    "compared; where cells of several settings fit, none is chosen and nothing is settled."
)


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
        _breast_density_is_unpredictable(results),
        _higgs_loses_little(results, 95.0),
        _higgs_loses_little(results, 50.0),
        *(_federation_beats_local(results, case) for case in CASES),
        *(
            _federation_beats_local(results, case, "dpsgd")
            for case in CASES
            if _protected(results, case, "dpsgd")
        ),
    ]


def _judged(
    observation: str,
    words: str,
    figures: Callable[[], Figures],
    holds: Callable[[float], bool],
) -> Finding:
    """The answer to an observation.

    Args:
        observation: what the article saw.
        words: what ours is a figure of.
        figures: one for each seed.
        holds: whether a figure is as the article says.
    """
    try:
        ours = figures()
    except AmbiguousError as error:
        return Finding(observation, str(error), NOT_SETTLED)
    found = paired_mean([ours.by_seed[seed] for seed in sorted(ours.by_seed)])
    if found is None:
        return Finding(observation, f"run it: {COMMAND}", NOT_RUN)
    figure = f"{words} {found.text()}{', synthetic' if ours.synthetic else ''}"
    open_answer = CANNOT_TELL if ours.synthetic else NOT_SETTLED
    if found.low is None or found.high is None:
        return Finding(observation, figure, open_answer)
    # Of few seeds a bootstrap settles noise (of three, whenever the signs agree: one time in four);
    # Student's interval must settle it too.
    ends = (found.low, found.high, *_student(list(ours.by_seed.values())))
    answers = {holds(end) for end in ends}
    if len(answers) == 2:
        return Finding(observation, figure, open_answer)
    return Finding(observation, figure, AGREES if answers.pop() else DISAGREES)


def _student(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of independent Gaussian figures; needs at least two."""
    error = statistics.stdev(values) / len(values) ** 0.5
    half = float(stats.t.ppf(0.975, len(values) - 1)) * error
    middle = statistics.fmean(values)
    return middle - half, middle + half


def _svt(results: Sequence[CellResult], **schedule: Any) -> list[CellResult]:
    wanted = {"dataset": "ixi_tiny", "algorithm": "svt", "federation": "fedavg", **schedule}
    return selected(results, wanted)


def _protected(results: Sequence[CellResult], dataset: str, algorithm: str) -> list[CellResult]:
    """A protection in every round."""
    wanted = {"dataset": dataset, "algorithm": algorithm, "federation": "fedavg", **EVERY}
    return selected(results, wanted)


def _gaussian(
    results: Sequence[CellResult], dataset: str, percentile: float = 95.0
) -> list[CellResult]:
    """The Gaussian filter in every round."""
    return selected(_protected(results, dataset, "gaussian"), {"algorithm.percentile": percentile})


def _score(cell: CellResult) -> float:
    found = value(cell)
    assert found is not None, "only cells with a score are selected"
    return found


def _svt_first_beats_every(results: Sequence[CellResult]) -> Finding:
    every, firsts = _svt(results, **EVERY), _svt(results, schedule="first_round")

    def gained(cell: CellResult) -> float | None:
        first = partner(cell, firsts)
        return None if first is None else _score(first) - _score(cell)

    return _judged(
        "IXI: SVT in the first round only is far above SVT in every round",
        "Dice, first round minus every round:",
        lambda: by_seed(every, gained),
        lambda d: d > 0.1,
    )


def _svt_decaying_lies_between(results: Sequence[CellResult]) -> Finding:
    every, firsts = _svt(results, **EVERY), _svt(results, schedule="first_round")
    decreasing = {"schedule.n": 2, "schedule.decay": lambda decay: decay < 1}
    nth = _svt(results, schedule="every_nth", **decreasing)

    def inside(cell: CellResult) -> float | None:
        first, middle = partner(cell, firsts), partner(cell, nth)
        if first is None or middle is None:
            return None
        # Smaller than 0 as soon as it is outside: the nearer end decides.
        return min(_score(first) - _score(middle), _score(middle) - _score(cell))

    return _judged(
        "IXI: SVT every second round with a decreasing threshold lies in between",
        "Dice, distance to the nearer of the two (negative: outside):",
        lambda: by_seed(every, inside),
        lambda d: d > 0,
    )


def _breast_density_is_unpredictable(results: Sequence[CellResult]) -> Finding:
    return _judged(
        "Breast density is the most unpredictable case",
        f"distance of a seed's share lost{protections(results)} from its mean, minus the larger of "
        "the others:",
        lambda: less_predictable("breast_density", results),
        lambda d: d > 0,
    )


def _breast_density_is_most_sensitive(results: Sequence[CellResult]) -> Finding:
    return _judged(
        "Breast density is the most sensitive case",
        f"share of the gain over chance lost{protections(results)}, minus the worse of the others:",
        lambda: more_sensitive("breast_density", results),
        lambda d: d > 0,
    )


def _higgs_loses_little(results: Sequence[CellResult], percentile: float) -> Finding:
    cells = _gaussian(results, "higgs", percentile)

    def lost(cell: CellResult) -> float | None:
        twin = exact_twin(cell, results)
        reached = None if twin is None else value(twin)
        return None if reached is None else reached - _score(cell)

    return _judged(
        f"HIGGS: small loss with the Gaussian filter at percentile {percentile:g}",
        f"AUC lost (small: at most {SMALL_LOSS:g}):",
        lambda: by_seed(cells, lost),
        lambda d: d <= SMALL_LOSS,
    )


def _federation_beats_local(
    results: Sequence[CellResult], case: str, algorithm: str = "gaussian"
) -> Finding:
    filtered = algorithm == "gaussian"
    cells = _gaussian(results, case) if filtered else _protected(results, case, algorithm)

    def left(cell: CellResult) -> float | None:
        local = exact_local(cell, results)
        return None if local is None else gain_left(cell, local)

    return _judged(
        f"Federated with DP is still above the best site alone: {case}"
        f"{'' if filtered else ', with a protection that proves something'}",
        f"score, {'Gaussian filter (percentile 95)' if filtered else 'DP-SGD'} minus best local:",
        lambda: by_seed(cells, left),
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
        usual = cell.algorithm != "svt" or _is_default_svt(settings)
        of_article = cell.dataset in CASES and cell.federation == "fedavg"
        if not (wanted and usual and of_article) or row.schedule != "every_round":
            continue
        price, privacy = prices[cell.cell_id], row.privacy or {}
        lost = MISSING if price.score_lost is None else price.score_lost.text()
        lines.append(
            {
                "case": f"{cell.dataset}{' (synthetic)' if cell.synthetic else ''}",
                "setting": row.algorithm,
                "score lost": lost,
                "proof bought": epsilon_text(privacy),
                "of one": claim_text(privacy),
                "protected rounds alone": protected_text(privacy),
                "what-if, no guarantee": _supposed(row.cells),
                "measured": measured_text(row),
                "collapsed": f"{len(price.collapsed)} of {len(row.cells)}",
            }
        )
    return lines


def _is_default_svt(settings: Mapping[str, Any]) -> bool:
    """Whether the filter's own parameters are FLARE's defaults."""
    usual = asdict(SvtConf())
    return all(settings.get(f"algorithm.{key}", one) == one for key, one in usual.items())


def _supposed(cells: Sequence[CellResult]) -> str:
    """The largest what-if figure of the seeds, and how many have one where not all do."""
    figures = [f for cell in cells if (f := (cell.privacy or {}).get("what_if"))]
    if not figures:
        return MISSING
    worst = max(figures, key=lambda figure: float(figure["epsilon"]))
    about = f"one {worst['unit']}, {worst['neighbouring']}, delta {delta_text(worst['delta'])}"
    text = f"epsilon {worst['epsilon']:.4g} (mu {worst['mu']:.4g}) of {about}"
    if len(cells) == 1:
        return text
    among = "" if len(figures) == len(cells) else f" {len(figures)} of"
    return f"{text}, the largest of{among} {len(cells)} seeds"

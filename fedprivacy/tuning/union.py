"""A front of several budgets: each a study of its own, their best settings joined."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedprivacy.config.composer import Composer
from fedprivacy.config.schema import CellConfig
from fedprivacy.data.cache import load_data
from fedprivacy.report.canvas import save, style
from fedprivacy.report.files import write_text
from fedprivacy.report.words import dataset_title
from fedprivacy.result import write_json
from fedprivacy.tuning.closing import SCHEMA, SUMMARY, Closed, price_words
from fedprivacy.tuning.guidance import ADVICE
from fedprivacy.tuning.recommendation import Candidate, choose, front
from fedprivacy.tuning.recommended_file import rerun_command, write_recommended
from fedprivacy.tuning.search_price import SearchPrice, price_search, read_ledgers, resolve_scheme
from fedprivacy.tuning.study_figures import front_figure
from fedprivacy.tuning.trial import CLAIM


@dataclass(frozen=True)
class Union:
    """What a finished front of several budgets leaves.

    Attributes:
        words: what to say.
        paths: files written, the parts' own not among them.
    """

    words: str
    paths: tuple[Path, ...]


def close_union(config: CellConfig, composer: Composer, parts: Sequence[Closed]) -> Union:
    """Join the studies of all budgets: the front, one recommendation, one price.

    The budgets' trials looked at the same records, so their price is of all of them together.
    """
    found = [part.recommended for part in parts if part.recommended is not None]
    joined = front([candidate for candidate in found if candidate.feasible])
    recommended = choose(joined or found, config.tuning)
    claims = [part.search.study.user_attrs.get(CLAIM) for part in parts]
    claim = next((one for one in claims if one is not None), None)
    price = None if claim is None else _price(config, claim, recommended)
    folder = Path(config.tuning.dir)
    paths = []
    if recommended is not None and claim is not None:
        paths.append(write_recommended(recommended, config, composer, claim))
    write_json(folder / SUMMARY, _summary(config, parts, joined, recommended, price))
    paths.append(folder / SUMMARY)
    paths += _guidance(config, parts, joined, claim)
    return Union(_words(config, joined, recommended, price, paths), tuple(paths))


def _guidance(
    config: CellConfig,
    parts: Sequence[Closed],
    joined: Sequence[Candidate],
    claim: dict[str, Any] | None,
) -> list[Path]:
    """The front as a picture, and what each budget's study teaches; maps are the parts' own."""
    folder = Path(config.tuning.dir)
    told = [
        textwrap.fill(f"epsilon {part.search.config.tuning.budget:g}: {part.guidance.advice}", 100)
        for part in parts
        if part.guidance is not None
    ]
    paths = [write_text(folder / ADVICE, "\n\n".join(told) + "\n")]
    if claim is None:
        return paths
    trials = [trial for part in parts for trial in part.trials]
    dataset = dataset_title(config.dataset.name, config.dataset.source == "synthetic")
    title = f"{dataset}: score against epsilon, a study for each budget"
    with style():
        figure = front_figure(trials, joined, parts[0].search.floor, claim, title)
        if figure is not None:
            paths += save(figure, folder / "front", ("png",))
    return paths


def _price(config: CellConfig, claim: dict[str, Any], recommended: Candidate | None) -> SearchPrice:
    data = load_data(config.dataset)
    ledgers, missing = read_ledgers([Path(config.tuning.dir)])
    return price_search(
        resolve_scheme(config.tuning.search_price.scheme, data.synthetic),
        ledgers,
        missing,
        claim,
        recommended.epsilon if recommended else None,
        mean_trials=config.tuning.n_trials,
        shape=config.tuning.search_price.shape,
        records_per_patient=data.records_per_patient,
    )


def _summary(
    config: CellConfig,
    parts: Sequence[Closed],
    joined: Sequence[Candidate],
    recommended: Candidate | None,
    price: SearchPrice | None,
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "study": config.tuning.name,
        "mode": config.tuning.mode,
        "dataset": config.dataset.name,
        "synthetic": config.dataset.source == "synthetic",
        "floor": parts[0].search.floor.to_json() if parts else None,
        "parts": [part.search.config.tuning.dir for part in parts],
        "best": [candidate.to_json() for candidate in joined],
        "recommended": recommended and recommended.to_json(),
        "rerun": rerun_command(config) if recommended else None,
        "price": price and price.to_json(),
    }


def _words(
    config: CellConfig,
    joined: Sequence[Candidate],
    recommended: Candidate | None,
    price: SearchPrice | None,
    paths: Sequence[Path],
) -> str:
    lines = [f"front of {len(config.tuning.budgets)} budgets:"]
    for candidate in joined:
        lines.append(f"  epsilon {candidate.epsilon:.4g}: score {candidate.score:.4f}")
    if not joined:
        lines.append("  no budget has a setting above the floor")
    if recommended is not None:
        lines.append(
            f"recommended: epsilon {recommended.epsilon:.4g}, the least whose score is within one "
            "standard error of the best"
        )
        lines.append(f"  run it: {rerun_command(config)}")
    if price is not None:
        lines.append(price_words(price))
    return "\n".join([*lines, *(f"wrote {path}" for path in paths)])

"""What a finished study leaves for its reader: pictures, importance and advice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedprivacy.report.canvas import save, style
from fedprivacy.report.files import write_text
from fedprivacy.report.words import dataset_title
from fedprivacy.tuning.advice import advise, importance_words
from fedprivacy.tuning.collapse_map import collapse_map
from fedprivacy.tuning.importance import collapse_importance, score_importance, searched
from fedprivacy.tuning.recommendation import Candidate
from fedprivacy.tuning.search import Search
from fedprivacy.tuning.space import SearchSpace
from fedprivacy.tuning.study_figures import epsilon_history_figure, front_figure, history_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna.trial import FrozenTrial

ADVICE = "advice.txt"


@dataclass(frozen=True)
class Guidance:
    """What a study teaches.

    Attributes:
        importance: share of each parameter, for the score and for collapse.
        advice: one paragraph.
        paths: files written.
    """

    importance: Mapping[str, Mapping[str, float]]
    advice: str
    paths: tuple[Path, ...]


def guide(
    search: Search,
    trials: Sequence[FrozenTrial],
    best: Sequence[Candidate],
    recommended: Candidate | None,
    claim: Mapping[str, Any] | None,
) -> Guidance:
    """Write the pictures and the advice of a study into its folder."""
    folder, tuning = Path(search.config.tuning.dir), search.config.tuning
    space = searched(trials, search.space)
    importance = {
        "score": score_importance(trials, space),
        "collapse": collapse_importance(trials, space),
    }
    words = advise(trials, space, search.floor, recommended, _typed_trials(search), tuning.mode)
    advice = f"{words} {importance_words(importance)}"
    paths = [write_text(folder / ADVICE, advice + "\n")]
    with style():
        for name, figure in _figures(search, space, trials, best, claim).items():
            if figure is not None:
                paths += save(figure, folder / name, ("png",))
            else:
                # An earlier end of the study may have left one that no longer holds.
                (folder / f"{name}.png").unlink(missing_ok=True)
    return Guidance(importance, advice, tuple(paths))


def _figures(
    search: Search,
    space: SearchSpace,
    trials: Sequence[FrozenTrial],
    best: Sequence[Candidate],
    claim: Mapping[str, Any] | None,
) -> dict[str, Figure | None]:
    title, mode = study_title(search), search.config.tuning.mode
    order = f"{title}: trials in their order"
    history = history_figure(trials, search.floor, order)
    front = None
    if claim is not None and mode == "floor":
        history = epsilon_history_figure(trials, claim, order)
    if claim is not None and mode != "budget":
        against = f"{title}: score against epsilon"
        front = front_figure(trials, best, search.floor, claim, against)
    return {
        "history": history,
        "collapse_map": collapse_map(trials, space, f"{title}: where training survives"),
        "front": front,
    }


def _typed_trials(search: Search) -> int:
    """``tuning.n_trials`` as it was typed: the study of one budget of a front has a share of it."""
    return int(search.composer.base().tuning.n_trials)


def study_title(search: Search) -> str:
    """What a study is, in a few words."""
    tuning, dataset = search.config.tuning, search.config.dataset
    about = f", epsilon {tuning.budget:g}" if tuning.mode == "budget" else f", {tuning.mode}"
    return f"{dataset_title(dataset.name, dataset.source == 'synthetic')}{about}"

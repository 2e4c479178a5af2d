"""``recommended.yaml``: the recommended setting as an experiment file, and how to rerun it."""

from __future__ import annotations

import io
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fedprivacy.config.composer import Composer
from fedprivacy.config.schema import CellConfig
from fedprivacy.report.files import write_text
from fedprivacy.tuning.planning import TARGET
from fedprivacy.tuning.recommendation import Candidate
from fedprivacy.tuning.search_price import keeps_best_only

RECOMMENDED = "recommended.yaml"
_GROUPS = ("algorithm", "schedule", "federation", "model", "privacy", "audit", "engine", "dataset")
_LEFT_OUT = ("hydra", "tuning", "tracking", "sweep", "grids", "engine")
_FINAL = ("model", "dataset")
"""Groups in the order of the primary configuration: a dataset chooses its model."""


def write_recommended(
    candidate: Candidate, config: CellConfig, composer: Composer, claim: Mapping[str, Any]
) -> Path:
    """Write the experiment file of a recommended setting into the study's folder.

    It states every value that differs from the defaults of the groups it names, so that it gives
    the trial's own cell, whatever the study was typed with.
    """
    target = {**candidate.settings, TARGET: candidate.outcome.budget}
    composed = composer.compose(target)
    choices = {
        group: choice
        for group, choice in composer.choices(candidate.settings).items()
        if group in _GROUPS
    }
    plain = Composer(tuple(f"{group}={choices[group]}" for group in _ordered(choices)))
    changed = _differences(composed.node, plain.compose({}).node)
    body: dict[str, Any] = {
        "defaults": [{f"override /{group}": choices[group]} for group in _ordered(choices)],
        **changed,
    }
    text = "# @package _global_\n" + _comment(candidate, config, claim) + _yaml(body)
    path = Path(config.tuning.dir) / RECOMMENDED
    write_text(path, text)
    return path


def rerun_command(config: CellConfig) -> str:
    """What to type to run the recommended setting."""
    folder = Path(config.tuning.dir)
    words = ["--config-dir", str(folder.parent), f"+{folder.name}=recommended"]
    return shlex.join(["fedprivacy", "run", *words])


def _comment(candidate: Candidate, config: CellConfig, claim: Mapping[str, Any]) -> str:
    held = "feasible" if candidate.feasible else "NOT feasible: it missed the floor or its budget"
    seeds = f"mean of {len(candidate.confirmed)} fresh seeds" if candidate.confirmed else "one run"
    # Of a private search nobody may learn how many trials there were.
    which = "the best trial" if keeps_best_only(config.tuning) else f"trial {candidate.trial}"
    lines = [
        f"Recommended by the study {config.tuning.name!r}, mode {config.tuning.mode}: {which}, "
        f"{held}.",
        f"Score {candidate.score:.4f} ({seeds}; {candidate.outcome.score:.4f} in the trial).",
        f"Epsilon {candidate.epsilon:.4g} at delta {claim['delta']:.3g} of one run: upper bound, "
        f"proved, unit {claim['unit']}, {claim['neighbouring']}, view {claim['view']}.",
        'What the search cost beside that: study.json, "price".',
        f"Run it: {rerun_command(config)}",
    ]
    return "".join(f"# {line}\n" for line in lines)


def _ordered(choices: Mapping[str, str]) -> list[str]:
    return sorted(choices, key=lambda g: (g in _FINAL, _FINAL.index(g) if g in _FINAL else 0, g))


def _differences(node: DictConfig, usual: DictConfig) -> dict[str, Any]:
    """Values of ``node`` that are not what ``usual`` has, nested as they are."""
    ours, theirs = _plain(node), _plain(usual)
    for plain in (ours, theirs):
        for key in _LEFT_OUT:
            plain.pop(key, None)
    return _changed(ours, theirs)


def _plain(node: DictConfig) -> dict[str, Any]:
    found = OmegaConf.to_container(node, resolve=True)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def _changed(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for key, value in ours.items():
        other = theirs.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            if inner := _changed(value, other):
                changed[key] = inner
        elif value != other or type(value) is not type(other):
            changed[key] = value
    return changed


def _yaml(body: Mapping[str, Any]) -> str:
    stream = io.StringIO()
    OmegaConf.save(OmegaConf.create(dict(body)), stream)
    return stream.getvalue()

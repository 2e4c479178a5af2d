"""Run one cell's federation on an engine and give back what happened, as plain values."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fedprivacy.accounting.events import Event
from fedprivacy.config.schema import CellConfig
from fedprivacy.config.serialization import dumps
from fedprivacy.errors import ClientFailure, ConfigError, TrainingCollapsed
from fedprivacy.federation.engines.base import Engine
from fedprivacy.federation.listeners import TOKEN, listening
from fedprivacy.federation.messages import ARRAYS, CELL, EVALUATE, SITES, decode_vector
from fedprivacy.federation.scoring import RoundScore
from fedprivacy.federation.server_app import OUTCOME, RELEASED
from fedprivacy.federation.site import open_runtime
from fedprivacy.federation.strategy import Exchange, RoundOutcome

ENGINES = ("inprocess", "stacked", "processes", "ray")


@dataclass(frozen=True)
class FederationOutcome:
    """What a run left.

    Attributes:
        history: one entry per finished round.
        events: everything released, the unfinished round included.
        weights: final ``(d,)`` float32 by site; one entry ``vector`` when averaged.
        collapse: why and where training became non-finite, None if it did not.
        evaluate_s: seconds of the run that went into scoring held-out records.
    """

    history: tuple[RoundOutcome, ...]
    events: tuple[Event, ...]
    weights: dict[str, torch.Tensor]
    collapse: TrainingCollapsed | None
    evaluate_s: float = 0.0


def get_engine(name: str) -> Engine:
    """The engine of that name.

    Raises:
        ConfigError: there is none.
    """
    if name == "inprocess":
        from fedprivacy.federation.engines.inprocess import InProcessEngine

        return InProcessEngine()
    if name == "stacked":
        from fedprivacy.federation.engines.stacked import StackedEngine

        return StackedEngine()
    if name == "processes":
        from fedprivacy.federation.engines.processes import ProcessEngine

        return ProcessEngine()
    if name == "ray":
        from fedprivacy.federation.engines.ray import RayEngine

        return RayEngine()
    raise ConfigError("engine", name, f"one of {ENGINES}", "engine=inprocess")


def run_federation(
    config: CellConfig,
    listener: Callable[[RoundOutcome], None] | None = None,
    *,
    observer: Callable[[Exchange], None] | None = None,
    evaluate: bool = True,
    engine: Engine | None = None,
) -> FederationOutcome:
    """Train the cell.

    Args:
        config: a validated configuration.
        listener: told about every finished round.
        observer: shown what the server sees in every round.
        evaluate: whether held-out records are scored; False only trains.
        engine: what runs it, if not the configured engine.

    Raises:
        ClientFailure: a site failed; carries its traceback and everything released before.
    """
    cell = dumps(config)
    sites = len(open_runtime(cell).nodes)
    with listening(listener, observer) as token:
        state = (engine or get_engine(config.engine.name)).run(
            sites, {CELL: cell, SITES: sites, TOKEN: token, EVALUATE: evaluate}, config.engine
        )
    if OUTCOME not in state:
        raise ClientFailure("the engine ended without an outcome; see its log")
    outcome, released = json.loads(str(state[OUTCOME]["json"])), state[OUTCOME][RELEASED]
    trouble = outcome["trouble"]
    if trouble and trouble["kind"] == "failed":
        failure = ClientFailure(trouble["message"], trouble["site"], trouble["traceback"])
        failure.released = tuple(map(json.loads, released))
        raise failure
    collapse = None
    if trouble:
        collapse = TrainingCollapsed(trouble["reason"], trouble["round"], trouble["site"])
    events = tuple(Event.from_json(json.loads(text)) for text in released)
    by_round: dict[int, list[Event]] = {}
    for event in events:
        by_round.setdefault(event.round, []).append(event)
    return FederationOutcome(
        history=tuple(
            _read_round(entry, by_round.get(entry["round"], ())) for entry in outcome["history"]
        ),
        events=events,
        weights={key: decode_vector(array) for key, array in state[ARRAYS].items()},
        collapse=collapse,
        evaluate_s=outcome["evaluate_s"],
    )


def _read_round(entry: dict[str, Any], events: Sequence[Event]) -> RoundOutcome:
    scores = RoundScore(**entry["scores"]) if entry["scores"] else None
    return RoundOutcome(**{**entry, "scores": scores, "events": tuple(events)})

"""Run one cell's federation on an engine and give back what happened, as plain values."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fedprivacy.accounting.events import Event
from fedprivacy.config.schema import CellConfig
from fedprivacy.config.serialization import dumps
from fedprivacy.errors import ClientFailure, ConfigError, TrainingCollapsed
from fedprivacy.federation.engines.base import Engine
from fedprivacy.federation.listeners import TOKEN, listening
from fedprivacy.federation.messages import ARRAYS, CELL, SITES, decode_vector
from fedprivacy.federation.scoring import RoundScore
from fedprivacy.federation.server_app import OUTCOME
from fedprivacy.federation.site import open_runtime
from fedprivacy.federation.strategy import RoundOutcome

ENGINES = ("inprocess", "ray")


@dataclass(frozen=True)
class FederationOutcome:
    """What a run left.

    Attributes:
        history: one entry per finished round.
        events: everything released, the unfinished round included.
        weights: final ``(d,)`` float32 by node; one entry ``vector`` when averaged.
        collapse: why and where training became non-finite, None if it did not.
    """

    history: tuple[RoundOutcome, ...]
    events: tuple[Event, ...]
    weights: dict[str, torch.Tensor]
    collapse: TrainingCollapsed | None


def get_engine(name: str) -> Engine:
    """The engine of that name.

    Raises:
        ConfigError: there is none.
    """
    if name == "inprocess":
        from fedprivacy.federation.engines.inprocess import InProcessEngine

        return InProcessEngine()
    if name == "ray":
        from fedprivacy.federation.engines.ray import RayEngine

        return RayEngine()
    raise ConfigError("engine", name, f"one of {ENGINES}", "engine=inprocess")


def run_federation(
    config: CellConfig, listener: Callable[[RoundOutcome], None] | None = None
) -> FederationOutcome:
    """Train the cell.

    Args:
        config: a validated configuration.
        listener: told about every finished round.

    Raises:
        ClientFailure: a site failed; carries its traceback.
    """
    cell = dumps(config)
    sites = len(open_runtime(cell).nodes)
    with listening(listener) as token:
        state = get_engine(config.engine.name).run(
            sites, {CELL: cell, SITES: sites, TOKEN: token}, config.engine
        )
    if OUTCOME not in state:
        raise ClientFailure("the engine ended without an outcome; see its log")
    outcome = json.loads(str(state[OUTCOME]["json"]))
    trouble = outcome["trouble"]
    if trouble and trouble["kind"] == "failed":
        raise ClientFailure(trouble["message"], trouble["site"], trouble["traceback"])
    collapse = None
    if trouble:
        collapse = TrainingCollapsed(trouble["reason"], trouble["round"], trouble["site"])
    arrays = state[ARRAYS]
    return FederationOutcome(
        history=tuple(_read_round(entry) for entry in outcome["history"]),
        events=tuple(Event.from_json(event) for event in outcome["released"]),
        weights={key: decode_vector(array) for key, array in arrays.items()},
        collapse=collapse,
    )


def _read_round(entry: dict[str, object]) -> RoundOutcome:
    scores = entry["scores"]
    values = dict(entry)
    values["scores"] = RoundScore(**scores) if isinstance(scores, dict) else None
    values["events"] = tuple(entry["events"])  # type: ignore[call-overload]
    return RoundOutcome(**values)  # type: ignore[arg-type]

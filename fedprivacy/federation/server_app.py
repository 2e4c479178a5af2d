"""The Flower ServerApp: rounds, guards, and what remains of a run."""

from __future__ import annotations

import json
from dataclasses import replace

from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp

from fedprivacy.accounting.events import Event
from fedprivacy.config.schema import FederationConf
from fedprivacy.errors import ClientFailure, TrainingCollapsed
from fedprivacy.federation.guards import StrictGrid
from fedprivacy.federation.listeners import find_listener, find_observer
from fedprivacy.federation.messages import ARRAYS, CELL, EVALUATE, SITES
from fedprivacy.federation.site import CellRuntime, open_runtime
from fedprivacy.federation.strategy import SiteStrategy
from fedprivacy.mechanisms.server import SERVER_SITE

OUTCOME, RELEASED = "outcome", "released"

app = ServerApp()


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Run all rounds; leave history, trouble and final weights in ``context.state``."""
    runtime = open_runtime(str(context.run_config[CELL]))
    config = runtime.config
    strict = StrictGrid(grid, int(context.run_config[SITES]), config.engine.timeout_s)
    strategy = SiteStrategy(
        strict.wait_for_sites(),
        [node.name for node in runtime.nodes],
        runtime.initial_weights,
        rounds=config.federation.rounds,
        scored=_scored(runtime, bool(context.run_config.get(EVALUATE, True))),
        local=config.federation.name == "local",
        metric=runtime.data.metric,
        listener=find_listener(context),
        observer=find_observer(context),
        server=runtime.server,
        strengths=runtime.strengths,
        streams=lambda number: runtime.streams(number, SERVER_SITE),
    )
    trouble = _run(strategy, strict, config.federation.rounds)
    outcome = {
        "trouble": trouble,
        "history": [
            {**vars(entry), "scores": entry.scores and vars(entry.scores), "events": None}
            for entry in strategy.history
        ],
        "evaluate_s": strategy.evaluate_s,
    }
    # Each event its own text: nobody need hold all of them taken apart at once.
    released = [json.dumps(event.to_json()) for event in strategy.released]
    context.state[OUTCOME] = ConfigRecord({"json": json.dumps(outcome), RELEASED: released})
    context.state[ARRAYS] = strategy.final_arrays()


def _scored(runtime: CellRuntime, evaluate: bool) -> frozenset[int]:
    """The rounds that are scored: where only the final model is published, only the last."""
    federation = runtime.config.federation
    if runtime.server.release is not None:
        federation = replace(federation, evaluate_every=0)
    return scored_rounds(federation, evaluate)


def scored_rounds(federation: FederationConf, evaluate: bool = True) -> frozenset[int]:
    """The rounds after which held-out records are scored; see ``FederationConf``.

    Args:
        federation: the configuration.
        evaluate: False for a run that only trains.
    """
    if not evaluate:
        return frozenset()
    every, rounds = federation.evaluate_every, federation.rounds
    return frozenset({rounds, *(range(every, rounds + 1, every) if every else ())})


def _run(strategy: SiteStrategy, grid: StrictGrid, rounds: int) -> dict[str, object]:
    """Run all rounds; what ended them early, empty if nothing did."""
    try:
        strategy.start(grid, ArrayRecord(), num_rounds=rounds, timeout=grid.timeout_s)
    except TrainingCollapsed as collapse:
        return {
            "kind": "collapsed",
            "reason": collapse.reason,
            "round": collapse.round_number,
            "site": collapse.site,
        }
    except ClientFailure as failure:
        strategy.released.extend(map(Event.from_json, failure.released))
        return {
            "kind": "failed",
            "message": failure.message,
            "site": failure.site,
            "traceback": failure.traceback_text,
        }
    return {}

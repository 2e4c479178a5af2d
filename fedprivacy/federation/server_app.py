"""The Flower ServerApp: rounds, guards, and what remains of a run."""

from __future__ import annotations

import json
from dataclasses import asdict

from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp

from fedprivacy.errors import ClientFailure, TrainingCollapsed
from fedprivacy.federation.guards import StrictGrid
from fedprivacy.federation.listeners import find_listener
from fedprivacy.federation.messages import ARRAYS, CELL, SITES
from fedprivacy.federation.site import open_runtime
from fedprivacy.federation.strategy import SiteStrategy

OUTCOME = "outcome"

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all rounds; leave history, trouble and final weights in ``context.state``."""
    runtime = open_runtime(str(context.run_config[CELL]))
    config = runtime.config
    strict = StrictGrid(grid, int(context.run_config[SITES]), config.engine.timeout_s)
    strategy = SiteStrategy(
        strict.wait_for_sites(),
        runtime.initial_weights,
        rounds=config.federation.rounds,
        local=config.federation.name == "local",
        evaluate_every=config.federation.evaluate_every,
        metric=runtime.data.metric,
        listener=find_listener(context),
    )
    trouble: dict[str, object] = {}
    try:
        strategy.start(
            strict,
            ArrayRecord(),
            num_rounds=config.federation.rounds,
            timeout=config.engine.timeout_s,
        )
    except TrainingCollapsed as collapse:
        trouble = {
            "kind": "collapsed",
            "reason": collapse.reason,
            "round": collapse.round_number,
            "site": collapse.site,
        }
    except ClientFailure as failure:
        trouble = {
            "kind": "failed",
            "message": failure.message,
            "site": failure.site,
            "traceback": failure.traceback_text,
        }
    outcome = {
        "trouble": trouble,
        "history": [asdict(entry) for entry in strategy.history],
        "released": strategy.released,
    }
    context.state[OUTCOME] = ConfigRecord({"json": json.dumps(outcome)})
    context.state[ARRAYS] = strategy.final_arrays()

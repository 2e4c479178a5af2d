"""fedprivacy, on the engine named in the environment."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from importlib import metadata

import ours_site
import torch
from work import BATCH, RATE, Clock, arguments, tell
from work import Net as Peer

import fedprivacy
from fedprivacy.config.composition import compose_cell, hydra_ready
from fedprivacy.config.loading import to_cell_config
from fedprivacy.config.schema import CellConfig
from fedprivacy.config.serialization import dumps
from fedprivacy.federation.engines.base import Engine
from fedprivacy.federation.engines.processes import ProcessEngine
from fedprivacy.federation.engines.ray import RayEngine
from fedprivacy.federation.run import run_federation
from fedprivacy.federation.site import close_runtime

args = arguments()
engine = os.environ.get("FEDPRIVACY_ENGINE", "inprocess")
os.environ["PEER_ROWS"] = str(args.rows)
torch.set_num_threads(1)


def configuration() -> CellConfig:
    """The cell."""
    words = [
        "algorithm=none", "dataset=higgs", "dataset.source=synthetic",
        f"dataset.n_sites={args.sites}", "model=mlp", "model.hidden=[64,64]",
        f"federation.rounds={args.rounds}", "federation.local_epochs=1",
        f"federation.batch_size={BATCH}", f"federation.lr={RATE}", "federation.momentum=0",
        "device=cpu", "engine.torch_threads=1",
    ]  # fmt: skip
    with hydra_ready():
        return to_cell_config(compose_cell(words))


def chosen() -> Engine | None:
    """The engine, with sites that can do without the files of these records."""
    if engine == "processes":
        return ProcessEngine(client_app="ours_site:app")
    return RayEngine(client_app=ours_site.app) if engine == "ray" else None


def run(config: CellConfig) -> tuple[torch.Tensor, list[float]]:
    """All rounds; the final weights, and seconds from the end of each round to that of the next."""
    close_runtime()
    ends: list[float] = []
    found = run_federation(
        config, lambda _: ends.append(time.perf_counter()), evaluate=False, engine=chosen()
    )
    return found.weights["vector"], [after - before for before, after in itertools.pairwise(ends)]


if __name__ == "__main__":
    config = configuration()
    ours_site.install(dumps(config))
    weights, clock, spans = None, Clock(), list[float]()
    if engine != "ray":  # Ray starts anew for each run: it is never warm
        weights, _ = run(config)
    for _ in range(args.repeats):
        with clock:
            weights, spans = run(config)
    assert weights is not None
    model = Peer()
    torch.nn.utils.vector_to_parameters(weights, model.parameters())
    if engine == "ray":
        # The first round ends with all actors started; what is not the rounds after it is the rest.
        version = " ".join(f"{name} {metadata.version(name)}" for name in ("flwr", "ray"))
        rest = round(clock.runs[0] - args.rounds * statistics.median(spans), 2)
        more = {"start_and_stop_s": rest, "spans_s": spans}
    else:
        version, more = fedprivacy.__version__, {}
    tell(f"fedprivacy {engine}", version, clock.runs, args.rounds, model, **more)

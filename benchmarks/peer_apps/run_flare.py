"""NVIDIA FLARE's simulator, with as many threads as clients.

Its polling is lowered to 0.05 s: the server's for replies and the clients' for tasks by their
settings, what a client's script and its process wait for each other in ``flare_site.py``. Two waits
are longer with many clients, unless ``--often`` is given. Beyond 10 clients one that asked in vain
waits 0.5 s before it asks again: rounds of 20 are about as long on two cores. And beyond 50 clients
the time between a client's tasks stays at 2 s: a hundred that ask every 0.05 s leave the server no
thread to take their results with, and the run has no end; so had one of two with 0.5 and 1 s. One
cause of its hanging with few clients is mended (``flare_mended.py``); with 20 that share nothing it
still hangs now and then.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import logging
import statistics
import time
from pathlib import Path

import torch
from flare_forked import ForkedSimulator
from flare_mended import PatientSimulator, keep_names_apart
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.app_opt.pt.job_config.base_fed_job import BaseFedJob
from nvflare.job_config.script_runner import ScriptRunner
from work import Net, arguments, tell

POLL_S, MOST_LOOKING, MOST_ASKING = 0.05, 10, 50


def job(folder: Path, notes: Path, sites: int, rounds: int, rows: int, often: bool) -> Path:
    """Write the job; its folder."""
    made = BaseFedJob(Net(), name="peer", min_clients=sites)
    made.to_server(
        FedAvg(
            num_clients=sites,
            num_rounds=rounds,
            persistor_id=made.comp_ids["persistor_id"],
            task_check_period=POLL_S,
        )
    )
    here = Path(__file__).resolve().parent
    asks = "often" if often or sites <= MOST_LOOKING else "seldom"
    runner = ScriptRunner(
        script=str(here / "flare_site.py"), script_args=f"{here} {rows} {notes} {POLL_S} {asks}"
    )
    for index in range(sites):
        made.to(runner, f"site-{index + 1}")
    made.export_job(str(folder))
    _put(folder, "config_fed_client.json", {"default_task_fetch_interval": POLL_S})
    if often or sites <= MOST_ASKING:
        # What the server tells a client to wait before it asks for its next task counts more.
        server = {"task_request_interval": POLL_S}
        _put(folder, "config_fed_server.json", {"server": server})
    return folder / "peer"


def _put(folder: Path, name: str, more: dict[str, object]) -> None:
    for path in folder.rglob(name):
        path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def rounds_s(notes: Path, rounds: int) -> list[float]:
    """Seconds from the first client's start of a round to the first start of the next.

    Not of the first round, in which clients still start, nor of the last, which nothing follows.
    """
    starts: dict[int, float] = {}
    for path in notes.glob("*.txt"):
        for line in path.read_text().splitlines():
            number, at = line.split()
            starts[int(number)] = min(starts.get(int(number), float(at)), float(at))
    assert len(starts) == rounds, starts
    ordered = [starts[number] for number in sorted(starts)]
    return [after - before for before, after in itertools.pairwise(ordered[1:])]


if __name__ == "__main__":
    args = arguments()
    scratch = Path(args.scratch).resolve()
    notes = scratch / "notes"
    notes.mkdir(parents=True)
    logging.disable(logging.CRITICAL)
    folder = job(scratch / "job", notes, args.sites, args.rounds, args.rows, args.often)
    names = ",".join(f"site-{index + 1}" for index in range(args.sites))
    started = time.time()
    keep_names_apart()
    simulator = (ForkedSimulator if args.forked else PatientSimulator)(
        job_folder=str(folder),
        workspace=str(scratch / "ws"),
        clients=names,
        threads=args.sites,
    )
    status = simulator.run()
    wall = time.time() - started
    assert status == 0, status
    spans = rounds_s(notes, args.rounds)
    found = next((scratch / "ws").rglob("FL_global_model.pt"))
    state = torch.load(found, weights_only=False)
    model = Net()
    model.load_state_dict({k: torch.as_tensor(v) for k, v in state.get("model", state).items()})
    rest = round(wall - args.rounds * statistics.median(spans), 2)
    tell(
        "NVIDIA FLARE", importlib.metadata.version("nvflare"), [wall], args.rounds,
        model, start_and_stop_s=rest, spans_s=spans,
    )  # fmt: skip

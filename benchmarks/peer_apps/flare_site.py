"""What a client of NVIDIA FLARE runs: one local epoch a round."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nvflare.client as flare
import torch
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.executors.client_api import in_process_backend
from nvflare.private.fed.app.simulator import simulator_worker

sys.path.insert(0, sys.argv[1])
from work import Net, records, train

ROWS, NOTES, POLL_S, ASKS = int(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]), sys.argv[5]


def poll_often() -> None:
    """Lower what the client's process, in which this runs, waits between two looks."""
    in_process_backend._RESULT_POLL_INTERVAL = POLL_S  # for what is sent from here
    flare.init().api.result_check_interval = POLL_S  # for what is received here
    if ASKS == "often":
        main = sys.modules["__main__"]
        worker = main if hasattr(main, "FETCH_TASK_RUN_RETRY") else simulator_worker
        worker.time = SimpleNamespace(  # for the next task
            time=time.time, sleep=lambda seconds: time.sleep(min(seconds, POLL_S))
        )


def main() -> None:
    """Train whenever the server asks."""
    torch.set_num_threads(1)
    poll_often()
    name = flare.get_site_name()
    index = int(name.rsplit("-", 1)[1])
    (x, y), model = records(index, ROWS), Net()
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        number = received.current_round
        with (NOTES / f"{name}.txt").open("a") as file:
            file.write(f"{number} {time.time()}\n")
        model.load_state_dict({k: torch.as_tensor(v) for k, v in received.params.items()})
        train(model, x, y, torch.Generator().manual_seed(1000 * number + index))
        params = {k: v.clone() for k, v in model.state_dict().items()}
        flare.send(
            FLModel(
                params=params, params_type=ParamsType.FULL, meta={"NUM_STEPS_CURRENT_ROUND": ROWS}
            )
        )
        with (NOTES / f"{name}.txt").open("a") as file:
            file.write(f"{number} {time.time()}\n")


main()

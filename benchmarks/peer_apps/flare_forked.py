"""Client processes of NVIDIA FLARE's simulator, forked from one that has imported their modules.

The simulator starts a new interpreter for each client. A hundred of them hold 26 GiB, nearly all
of it what each has imported, and on two cores take longer to import it than the simulator waits
for them (60 s). Forked ones share it. What they do once they run is the same.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys

from flare_mended import PATIENCE_S, PatientSimulator
from nvflare.private.fed.app.simulator import simulator_runner, simulator_worker

# Imported once: what is large of what a client and its script import.
_PRELOADED = [
    "torch",
    "torch._dynamo",  # the optimiser asks for it at its first step
    "nvflare.app_common.executors.client_api.in_process_backend",
    "nvflare.app_common.workflows.fedavg",
    "nvflare.app_opt.pt.job_config.base_fed_job",
    "nvflare.client",
    "nvflare.job_config.script_runner",
]
_forked = multiprocessing.get_context("forkserver")


class ForkedSimulator(PatientSimulator):
    """The simulator with forked clients."""

    def run(self) -> int:
        """As the simulator's own."""
        _forked.set_forkserver_preload(_PRELOADED)
        simulator_runner.subprocess = _Subprocess
        return super().run()


class _Worker:
    """What ``subprocess.Popen`` is for ``python -m MODULE WORDS``, as far as it is used."""

    def __init__(self, command: list[str], env: dict[str, str], **_: object) -> None:
        self._process = _forked.Process(target=_work, args=(command[3:], env))
        self._process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        if self._process.is_alive():
            raise subprocess.TimeoutExpired("simulator worker", timeout or 0)
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


class _Subprocess:
    """What the simulator uses of ``subprocess``."""

    Popen, TimeoutExpired = _Worker, subprocess.TimeoutExpired


def _work(words: list[str], environment: dict[str, str]) -> None:
    """What the simulator's module for a client does when it is run."""
    os.setsid()
    os.environ.update(environment)
    sys.argv[1:] = words
    simulator_worker.CELL_CONNECT_CHECK_TIMEOUT = PATIENCE_S
    args = simulator_worker.parse_arguments()
    simulator_worker.mpm.run(main_func=simulator_worker.main, run_dir=args.workspace, args=args)

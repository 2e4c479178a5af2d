"""Flower's own simulation runtime on Ray: the same apps, one actor per CPU.

The stock engine, kept for conformance and for several machines. It starts Ray anew for every
cell, which costs seconds.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedprivacy.config.schema import EngineConf
from fedprivacy.errors import ClientFailure, ConfigError
from fedprivacy.federation.engines.base import RunConfig
from fedprivacy.federation.engines.local_grid import task_identity
from fedprivacy.federation.flower import process_state_kept, quiet_flower

log = logging.getLogger(__name__)

_SERVER_NODE = 1
_POLL_S = 0.2
# How long Flower and Ray may take to come down once the ServerApp has ended.
_TEARDOWN_S = 60.0
# Flower fills the sites' run configuration from an app's manifest and the run's overrides of it.
_APP = Path(__file__).resolve().parents[1] / "app"


class RayEngine:
    """Runs a cell's apps on Flower's Ray simulation.

    Args:
        server_app: instead of the package's own.
        client_app: instead of the package's own.
    """

    def __init__(
        self, server_app: ServerApp | None = None, client_app: ClientApp | None = None
    ) -> None:
        from fedprivacy.federation import client_app as sites
        from fedprivacy.federation import server_app as server

        self.server_app = server_app or server.app
        self.client_app = client_app or sites.app

    def run(self, sites: int, run_config: RunConfig, conf: EngineConf) -> RecordDict:
        """See ``Engine.run``.

        Raises:
            ConfigError: the optional extra is not installed.
            ClientFailure: the runtime ended without an outcome.
        """
        if importlib.util.find_spec("ray") is None:
            raise ConfigError(
                "engine", "ray", "engines that are installed", "pip install 'fedprivacy[ray]'"
            )
        context = Context(
            run_id=1,
            node_id=_SERVER_NODE,
            node_config={},
            state=RecordDict(),
            run_config=dict(run_config),
        )
        with process_state_kept(), quiet_flower(logging.CRITICAL), task_identity(1):
            # Without it Ray joins whatever cluster was last noted on this machine, and may wait
            # for that cluster's CPUs for ever.
            os.environ["RAY_ADDRESS"] = "local"
            os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
            _Simulation(self.server_app, self.client_app, sites, context).run()
        return context.state


class _Simulation:
    """One run of Flower's simulation that always ends.

    Flower waits without limit for an actor that hangs, and its threads outlive an interruption.
    Here the simulation runs in a daemon thread, and everything in it gives up once ``ending`` is
    set: when the ServerApp has ended, or this thread was interrupted.
    """

    def __init__(
        self, server_app: ServerApp, client_app: ClientApp, sites: int, context: Context
    ) -> None:
        self.client_app, self.sites, self.context = client_app, sites, context
        self.ending, self.down = threading.Event(), threading.Event()
        self.raised: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
        self.server_app = ServerApp()

        @self.server_app.main()  # type: ignore[untyped-decorator]
        def main(grid: Grid, context: Context) -> None:
            try:
                server_app(grid, context)
            except BaseException as error:
                self.raised.put(error)
            finally:
                self.ending.set()

    def run(self) -> None:
        """Run to the end.

        Raises:
            Exception: whatever the ServerApp raised.
            ClientFailure: the simulation broke down before the ServerApp ended.
        """
        # A daemon, and so are the threads that it starts; signal handlers stay as they are,
        # because Ray replaces them in the main thread only.
        thread = threading.Thread(target=self._simulate, name="fedprivacy-ray", daemon=True)
        try:
            thread.start()
            # Not Thread.join: in Python 3.11 an interrupted join takes the thread for ended.
            while not self.ending.wait(_POLL_S) and not self.down.is_set():
                pass
        finally:
            self.ending.set()
            if not self.down.wait(_TEARDOWN_S):
                log.warning("Flower's simulation did not come down within %g s", _TEARDOWN_S)
        if not self.raised.empty():
            raise self.raised.get()

    def _simulate(self) -> None:
        try:
            with _endable(self.ending):
                self._run_simulation()
        except BaseException as error:
            failure = ClientFailure(f"Flower's simulation broke down: {error!r}")
            failure.__cause__ = error
            self.raised.put(failure)
        finally:
            self.down.set()

    def _run_simulation(self) -> None:
        # Flower 1.41 has no public programmatic simulation that passes a run configuration; this
        # is what its own `flwr-simulation` program calls.
        from flwr.simulation.run_simulation import _run_simulation
        from flwr.supercore.constant import NOOP_FEDERATION_ID
        from flwr.supercore.run import Run
        from flwr.supercore.telemetry import EventType

        run = Run.create_empty(run_id=self.context.run_id)
        run.override_config = self.context.run_config
        run.primary_task_id = 1
        run.federation_id = NOOP_FEDERATION_ID
        _run_simulation(
            num_supernodes=self.sites,
            exit_event=EventType.PYTHON_API_RUN_SIMULATION_LEAVE,
            client_app=self.client_app,
            server_app=self.server_app,
            backend_config=_resources(self.sites),
            server_app_context=self.context,
            run=run,
            app_dir=str(_APP),
            is_app=True,
        )


def _resources(sites: int) -> dict[str, Any]:
    """No more actors than sites: each is a process that imports torch and loads the data."""
    actors = max(1, min(sites, os.cpu_count() or 1))
    return {
        "client_resources": {"num_cpus": 1, "num_gpus": _gpu_share(actors)},
        "init_args": {
            "num_cpus": actors,
            "logging_level": logging.CRITICAL,
            "log_to_driver": False,
        },
    }


def _gpu_share(actors: int) -> float:
    """Share of a GPU each actor may see: all actors share the first one."""
    import torch

    return 1.0 / actors if torch.cuda.is_available() else 0.0


@contextmanager
def _endable(ending: threading.Event) -> Iterator[None]:
    """Make Flower's waits end with ``ending``, and its telemetry do nothing at all.

    Even when it is switched off, an event starts a thread that leaves an identifier of this
    machine in the user's home.
    """
    import ray
    from flwr.server.superlink.fleet.vce.backend import raybackend

    # The package exports a function of the same name.
    run_simulation = importlib.import_module("flwr.simulation.run_simulation")
    in_memory_grid: Any = run_simulation.InMemoryGrid

    class Pool(raybackend.BasicActorPool):  # type: ignore[misc]
        def fetch_result_and_return_actor_to_pool(self, future: Any) -> tuple[Message, Context]:
            while not ending.is_set():
                if ray.wait([future], timeout=_POLL_S)[0]:
                    result: tuple[Message, Context]
                    result = super().fetch_result_and_return_actor_to_pool(future)
                    return result
            raise TimeoutError("the run is ending")

    class EndableGrid(in_memory_grid):  # type: ignore[misc]
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            if ending.is_set():
                raise ClientFailure("the run is ending")
            replies: Iterable[Message] = super().pull_messages(message_ids)
            return replies

    with (
        _swapped(raybackend, "BasicActorPool", Pool),
        _swapped(run_simulation, "InMemoryGrid", EndableGrid),
        _swapped(run_simulation, "event", lambda *_, **__: None),
    ):
        yield


@contextmanager
def _swapped(owner: Any, name: str, value: object) -> Iterator[None]:
    saved = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, saved)

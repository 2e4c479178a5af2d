"""Flower's own simulation runtime on Ray: the same apps, one actor per CPU.

The stock engine, kept for conformance and for several machines. It starts Ray anew for every
cell, which costs seconds.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict

from fedprivacy.config.schema import EngineConf
from fedprivacy.errors import ClientFailure, ConfigError
from fedprivacy.federation.engines.base import RunConfig
from fedprivacy.federation.engines.inprocess import task_identity
from fedprivacy.federation.flower import process_state_kept, quiet_flower

_SERVER_NODE = 1
# Flower fills the sites' run configuration from an app's manifest and the run's overrides of it.
_APP = Path(__file__).resolve().parents[1] / "app"


class RayEngine:
    """Runs a cell's apps on Flower's Ray simulation."""

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
        with process_state_kept(), quiet_flower(logging.ERROR), task_identity(1):
            # Without it Ray joins whatever cluster was last noted on this machine, and may wait
            # for that cluster's CPUs for ever.
            os.environ["RAY_ADDRESS"] = "local"
            os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
            return self._simulate(sites, context)

    def _simulate(self, sites: int, context: Context) -> RecordDict:
        # Flower 1.41 has no public programmatic simulation that passes a run configuration; this
        # is what its own `flwr-simulation` program calls.
        from flwr.simulation.run_simulation import _run_simulation
        from flwr.supercore.constant import NOOP_FEDERATION_ID
        from flwr.supercore.run import Run
        from flwr.supercore.telemetry import EventType

        from fedprivacy.federation import client_app, server_app

        resources: dict[str, Any] = {
            "client_resources": {"num_cpus": 1, "num_gpus": _gpu_share()},
            "init_args": {"logging_level": logging.ERROR, "log_to_driver": False},
        }
        run = Run.create_empty(run_id=context.run_id)
        run.override_config = context.run_config
        run.primary_task_id = 1
        run.federation_id = NOOP_FEDERATION_ID
        result: Any = _run_simulation(
            num_supernodes=sites,
            exit_event=EventType.PYTHON_API_RUN_SIMULATION_LEAVE,
            client_app=client_app.app,
            server_app=server_app.app,
            backend_config=resources,
            server_app_context=context,
            run=run,
            app_dir=str(_APP),
            is_app=True,
        )
        final = getattr(result, "context", result)
        if not isinstance(final, Context):
            raise ClientFailure("Flower's simulation ended without a context; see its log")
        return final.state


def _gpu_share() -> float:
    """Share of a GPU each actor may see: all actors share the first one."""
    import torch

    if not torch.cuda.is_available():
        return 0.0
    return 1.0 / max(1, os.cpu_count() or 1)

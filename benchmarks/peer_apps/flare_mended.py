"""NVIDIA FLARE's simulator without what makes it hang while many clients start.

Its threads write the name of their client into one dictionary and send it from there, so that of
clients that start at the same moment two may get the same name; all then wait for ever. And each
waits 60 s for its client, which takes longer where a hundred import their modules on two cores.
"""

from __future__ import annotations

import threading
from typing import Any

from nvflare.private.fed.app.simulator import simulator_runner

PATIENCE_S = 1200
_KEY = "client_name"


class NamesApart(dict[str, Any]):
    """The context that is sent to clients; each thread sends the name that it wrote itself."""

    def __init__(self, context: dict[str, Any]) -> None:
        super().__init__(context)
        self._own = threading.local()

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        if key == _KEY:
            self._own.name = value

    def __reduce__(self) -> tuple[type, tuple[dict[str, Any]]]:
        return dict, ({**self, _KEY: self._own.name},)


class Clients(simulator_runner.SimulatorClientRunner):
    """The simulator's own, with names apart."""

    def __init__(self, *words: Any, **named: Any) -> None:
        super().__init__(*words, **named)
        self.build_ctx = NamesApart(self.build_ctx)


def keep_names_apart() -> None:
    """Let the simulator make its clients' threads so."""
    simulator_runner.SimulatorClientRunner = Clients


class PatientSimulator(simulator_runner.SimulatorRunner):
    """The simulator's own; waits for a client while all others start, too."""

    def _generate_args(self, *words: Any, **named: Any) -> Any:
        args = super()._generate_args(*words, **named)
        args.set = [f"simulator_worker_timeout={PATIENCE_S}"]
        return args

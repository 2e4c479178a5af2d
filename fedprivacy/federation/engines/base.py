"""What an engine is: something that runs the Flower apps of a cell to the end."""

from __future__ import annotations

from typing import Protocol

from flwr.app import RecordDict

from fedprivacy.config.schema import EngineConf

RunConfig = dict[str, bool | float | int | str]


class Engine(Protocol):
    """Runs ServerApp and ClientApp with a number of sites.

    Every engine gives bit-identical weights for the same seed: the same at each run, and the same
    as the others, but for the stacked engine, whose sums round differently. All obey the four
    guards: a site that fails makes the run fail with that site's own traceback; round 1 waits for
    all sites; sums do not depend on arrival order; a run always ends.
    """

    def run(self, sites: int, run_config: RunConfig, conf: EngineConf) -> RecordDict:
        """Run to the end.

        Args:
            sites: number of participants.
            run_config: scalars for both apps, see ``fedprivacy.federation.messages``.
            conf: the engine's settings.

        Returns:
            The ServerApp's final state.

        Raises:
            ClientFailure: a site died or the runtime ended without an outcome.
        """
        ...

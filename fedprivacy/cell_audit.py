"""A cell's audit: what the observer noted becomes bounds, a verdict and files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedprivacy.accounting.claims import Claim, claim
from fedprivacy.accounting.ledger import Ledger
from fedprivacy.accounting.profile import Profile, privacy_profile
from fedprivacy.accounting.statement import PrivacyStatement
from fedprivacy.accounting.units import alike
from fedprivacy.audit.assessment import RELATION, Assessment, assess
from fedprivacy.audit.messages import records_in_messages
from fedprivacy.audit.observation import Observation
from fedprivacy.audit.reconstruction import Victims, reconstruct
from fedprivacy.audit.views import log_odds
from fedprivacy.config.schema import CellConfig
from fedprivacy.config.serialization import dumps
from fedprivacy.errors import ProtectionError
from fedprivacy.federation.run import FederationOutcome
from fedprivacy.federation.site import CellRuntime, open_runtime
from fedprivacy.result import Verdict
from fedprivacy.training.task import LocalTask

AUDIT_FILE, RECONSTRUCTIONS_FILE = "audit.npz", "reconstructions.npz"


def open_observation(config: CellConfig) -> Observation | None:
    """What is to note down the cell's training; None without an audit."""
    if config.audit.name == "none":
        return None
    runtime = open_runtime(dumps(config))
    federated = config.federation.name != "local"
    return Observation(runtime.parameters, runtime.loss, runtime.canaries, federated=federated)


def audit_cell(
    config: CellConfig,
    observation: Observation,
    outcome: FederationOutcome,
    ledger: Ledger,
    statement: PrivacyStatement,
    folder: Path,
) -> Assessment:
    """Assess what was observed, and leave the scores in ``audit.npz``."""
    runtime = open_runtime(dumps(config))
    losses = observation.final_losses(outcome.weights)
    scores = observation.scores(losses)
    canaries = observation.canaries
    included = np.concatenate([one.included for one in canaries.values()])
    found = assess(
        scores,
        included,
        view=statement.view,
        delta=statement.delta,
        confidence=config.audit.confidence,
        shares=config.audit.guesses,
        claimed=protected_profiles(ledger, statement),
    )
    arrays = {
        "site": np.concatenate([np.full(len(one), name) for name, one in canaries.items()]),
        "candidate": np.concatenate([one.candidate for one in canaries.values()]),
        "included": included,
        "loss": losses,
        "logit": -losses if runtime.data.task == "segmentation" else log_odds(losses),
        **{name: scores[view] for name, view in _SAVED.items() if view in scores},
    }
    write_arrays(folder / AUDIT_FILE, arrays)
    block = {
        **found.block,
        "reconstruction": _reconstruction(config, runtime, folder),
        "messages": _messages(config, runtime, observation),
        "canaries": {
            "kind": config.audit.kind,
            "seed": config.audit.seed,
            "coins_seed": config.seed,
            "per_site": {name: len(one) for name, one in canaries.items()},
            "included": int(included.sum()),
            "file": AUDIT_FILE,
        },
    }
    return replace(found, block=block)


_SAVED = {"server": "server_updates", "aggregate": "aggregate", "final": "final_model"}


def _reconstruction(
    config: CellConfig, runtime: CellRuntime, folder: Path
) -> dict[str, Any] | None:
    """Attack records of the first site under the protection of the round that has the least.

    At the weights that training begins with, whichever round that is: they are public, and those
    of a later round would have to be kept for every site.
    """
    if config.audit.name != "full":
        return None
    number = weakest_round(runtime.strengths)
    node, data = runtime.nodes[0], runtime.data
    shown = torch.cat([site.test_x for site in data.sites])
    victims = Victims(
        x=node.train.train_x[: config.audit.victims],
        y=node.train.train_y[: config.audit.victims],
        prior=shown.mean(dim=0),
        low=float(shown.min()),
        high=float(shown.max()),
    )

    def task_of(x: torch.Tensor, y: torch.Tensor, victim: int) -> LocalTask:
        whole = runtime.task(0, number, runtime.initial_weights)
        device = whole.x.device
        return replace(
            whole, x=x.to(device), y=y.to(device), batch_size=1, local_epochs=1.0,
            streams=replace(whole.streams, site=whole.streams.site + 1000 * (victim + 1)),
        )  # fmt: skip

    try:
        found = reconstruct(runtime.mechanism, task_of, victims, config.audit.attack_steps)
    except ProtectionError as error:
        reason = f"nothing left the site: {error}"
        return {"attack": None, "reason": reason, "victims": len(victims.x), "recognised": 0}
    arrays = {"originals": found.originals, "reconstructions": found.found}
    write_arrays(folder / RECONSTRUCTIONS_FILE, arrays)
    return {
        **found.to_json(),
        "round": number,
        "weights": "initial",
        "strength": runtime.strengths[number - 1],
        "site": node.name,
        "file": RECONSTRUCTIONS_FILE,
    }


def _messages(
    config: CellConfig, runtime: CellRuntime, observation: Observation
) -> dict[str, Any] | None:
    """Look for the first audited site's records in what it sent in the run itself."""
    if config.audit.name != "full" or observation.layer is None or not observation.messages:
        return None
    name, updates = next(iter(observation.messages.items()))
    [node] = [node for node in runtime.nodes if node.name == name]
    found = records_in_messages(updates, *observation.layer, node.train.train_x.flatten(1))
    return {**found.to_json(), "site": name}


def weakest_round(strengths: Sequence[float | None]) -> int:
    """The round that an attacker would choose: a raw one, else the one of least strength."""
    order = [(-1.0 if one is None else one, number) for number, one in enumerate(strengths, 1)]
    return min(order)[1]


def protected_profiles(ledger: Ledger, statement: PrivacyStatement) -> tuple[Profile, ...]:
    """Proven profiles, one for each site, of one record in the protected releases alone.

    Empty where they prove nothing, or something of one record in another's place, which the coins
    of an audit do not ask: there is no claim to test then.
    """
    protected = ledger.protected()
    if not len(protected):
        return ()
    subject: Claim = claim(protected, "record", statement.view, statement.delta)
    if subject.neighbouring is None or not np.isfinite(subject.total.epsilon):
        return ()
    # Whatever a coarser unit's data are replaced by, a record inside it may be missing.
    if subject.events[0].unit == "record" and not alike(subject.neighbouring, RELATION):
        return ()
    chosen = Ledger(subject.events)
    return tuple(privacy_profile(chosen.site(name), subject.neighbouring) for name in chosen.sites)


def verdict(statement: PrivacyStatement, rejected: bool | None = None) -> Verdict:
    """What may be said of a cell.

    Args:
        statement: what its ledger proves.
        rejected: whether an audit rejects "as private as its protected rounds".
    """
    if rejected:
        return "falsified"
    if not statement.infinite:
        return "proven"
    if statement.protected_rounds and not statement.epsilon_protected_infinite:
        return "partial"
    return "unprotected"


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write a compressed ``.npz`` whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, **{key: _array(value) for key, value in arrays.items()})
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _array(value: Any) -> Any:
    return value.numpy() if isinstance(value, torch.Tensor) else value

"""One cell, the whole story: data, model, mechanism, federation, ledger, result."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import platform
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedprivacy import __version__
from fedprivacy.accounting.coverage import coverage
from fedprivacy.accounting.delta import resolve_delta
from fedprivacy.accounting.events import Event
from fedprivacy.accounting.ledger import Ledger
from fedprivacy.accounting.statement import PrivacyStatement, privacy_statement
from fedprivacy.accounting.units import Unit
from fedprivacy.accounting.what_if import what_if
from fedprivacy.assumptions import assumptions, publishes_final_model_alone
from fedprivacy.audit.assessment import Assessment
from fedprivacy.cell_audit import (
    AUDIT_FILE,
    RECONSTRUCTIONS_FILE,
    audit_cell,
    open_observation,
    verdict,
)
from fedprivacy.config.identity import cell_id, meaning, schedule_name
from fedprivacy.config.schema import CellConfig
from fedprivacy.config.serialization import dumps
from fedprivacy.data.base import FederatedData
from fedprivacy.data.cache import load_data
from fedprivacy.device import resolve_device
from fedprivacy.errors import AccountingError, CellPruned, ClientFailure, ConfigError
from fedprivacy.federation.arrangement import arrange_cell, largest_participant
from fedprivacy.federation.run import FederationOutcome, run_federation
from fedprivacy.federation.scoring import chance
from fedprivacy.federation.site import open_runtime
from fedprivacy.federation.strategy import RoundOutcome
from fedprivacy.result import (
    LEDGER_FILE,
    RESULT_FILE,
    SCHEMA,
    CellResult,
    RoundBlock,
    ScoreBlock,
    Status,
    finite,
    write_result,
)
from fedprivacy.schedules import strengths
from fedprivacy.threads import use_threads

log = logging.getLogger(__name__)

Listener = Callable[[RoundOutcome], None]


def run_cell(
    config: CellConfig,
    folder: Path,
    *,
    listener: Listener | None = None,
    overrides: Sequence[str] = (),
) -> CellResult:
    """Run one cell and leave ``ledger.jsonl`` and, last, ``result.json`` in its folder.

    A site that fails makes the cell ``failed`` with the site's traceback, and with ledger and
    privacy statement of what had been released by then; non-finite training makes it
    ``collapsed``; a listener that raises ``CellPruned`` makes it ``pruned``. Only an interruption
    leaves no result.

    Args:
        config: a validated configuration.
        folder: the cell's own folder; made if missing.
        listener: told about every finished round; may raise to end the cell.
        overrides: what was typed to get this cell, for the record.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # What an earlier, failed run left must not outlive an interruption of this one.
    for name in (RESULT_FILE, LEDGER_FILE, AUDIT_FILE, RECONSTRUCTIONS_FILE):
        (folder / name).unlink(missing_ok=True)
    # Audits run here: with another number of threads their last digits would be others.
    use_threads(config.engine.torch_threads)
    watch = Stopwatch()
    base = _identity(config, overrides)
    heard: list[RoundOutcome] = []
    pruned: list[CellPruned] = []

    def hear(outcome: RoundOutcome) -> None:
        heard.append(outcome)
        if listener is not None:
            try:
                listener(outcome)
            except CellPruned as stop:
                # Some engines tell of an exception in the server's app only that there was one.
                pruned.append(stop)
                raise

    try:
        result = _run(config, folder, base, watch, hear)
    except Exception as error:
        if pruned:
            return _end(folder, _pruned(config, folder, base, pruned[0], heard), watch)
        log.error("cell %s failed: %s", base.cell_id, error)
        result = _with(base, status="failed", reason=_first_line(error), error=_describe(error))
        result = _with(result, privacy=_privacy_of_failure(config, folder, error, heard))
    return _end(folder, result, watch)


def _end(folder: Path, result: CellResult, watch: Stopwatch) -> CellResult:
    result = _with(result, timing_s=watch.seconds())
    write_result(folder, result)
    return result


def failed_result(
    config: CellConfig, reason: str, kind: str, overrides: Sequence[str] = ()
) -> CellResult:
    """The result of a cell that could not leave one itself."""
    error = {"type": kind, "message": reason, "traceback": ""}
    return _with(_identity(config, overrides), reason=reason, error=error)


def _run(
    config: CellConfig,
    folder: Path,
    base: CellResult,
    watch: Stopwatch,
    listener: Listener,
) -> CellResult:
    with watch.measure("setup"):
        data = load_data(config.dataset)
        nodes = arrange_cell(config, data).nodes
        sites = {n.name: {"train": len(n.train.train_x)} for n in nodes}
        tests = {s.name: len(s.test_x) for s in data.sites}
        # A delta that cannot be stated must end the cell before anything is released.
        _delta(config, data)
        observation = open_observation(config)
        open_runtime(dumps(config))  # builds the model and the mechanism; the engine finds it again
    with watch.measure("train"):
        observer = None if observation is None else observation.observe
        outcome = run_federation(config, listener, observer=observer)
    watch.move(outcome.evaluate_s, "train", "evaluate")
    with watch.measure("account"):
        ledger = Ledger(outcome.events)
        ledger.write(folder / LEDGER_FILE)
        statement = _state(config, ledger, len(outcome.history))
        _check_target(config, statement)
    found: Assessment | None = None
    if observation is not None:
        watch.move(observation.seconds, "train", "audit")
        with watch.measure("audit"):
            found = audit_cell(config, observation, outcome, ledger, statement, folder)
    rounds = _rounds(config, outcome, statement)
    score = _score(data, outcome)
    status, reason = _status(outcome, score)
    return _with(
        base,
        synthetic=data.synthetic,
        sites={name: {**size, "test": tests.get(name, 0)} for name, size in sites.items()},
        status=status,
        reason=reason,
        round=outcome.collapse.round_number if outcome.collapse else None,
        score=score,
        rounds=rounds,
        privacy=_privacy(config, statement, outcome.history),
        audit=found.block if found else None,
        verdict=verdict(statement, found.rejected if found else None),
    )


def _pruned(
    config: CellConfig,
    folder: Path,
    base: CellResult,
    stop: CellPruned,
    heard: Sequence[RoundOutcome],
) -> CellResult:
    """What a cell that was ended early had reached, and what it had released by then."""
    events = tuple(event for outcome in heard for event in outcome.events)
    outcome = FederationOutcome(tuple(heard), events, {}, None)
    ledger = Ledger(events)
    ledger.write(folder / LEDGER_FILE)
    statement = _state(config, ledger, len(heard))
    data = load_data(config.dataset)
    return _with(
        base,
        synthetic=data.synthetic,
        status="pruned",
        reason=stop.reason,
        round=len(heard),
        score=_score(data, outcome),
        rounds=_rounds(config, outcome, statement),
        privacy=_privacy(config, statement, heard),
        verdict=verdict(statement, None),
    )


def _delta(config: CellConfig, data: FederatedData) -> float:
    sizes = [len(site.train_x) for site in data.sites]
    return resolve_delta(config.privacy.delta, largest_participant(config, sizes))


def _state(config: CellConfig, ledger: Ledger, rounds: int) -> PrivacyStatement:
    """What the ledger of a cell proves after a number of finished rounds."""
    data = load_data(config.dataset)
    return privacy_statement(
        ledger,
        rounds=rounds,
        delta=_delta(config, data),
        view=config.privacy.view,  # type: ignore[arg-type]
        unit=_unit(config, ledger),
        randomness=config.privacy.randomness,  # type: ignore[arg-type]
        assumptions=assumptions(config, data),
        records_per_patient=data.records_per_patient,
    )


def _check_target(config: CellConfig, statement: PrivacyStatement) -> None:
    """A target is a promise: a cell whose protected rounds cost more has failed.

    Raises:
        AccountingError: what was released costs more than the target.
    """
    target: float | None = getattr(config.algorithm, "target_epsilon", None)
    reached = statement.epsilon_protected
    if target is None or reached is None or reached <= target:
        return
    raise AccountingError(
        f"algorithm.target_epsilon={target:g} was promised, but the protected rounds cost epsilon "
        f"{reached:.6g} for one {statement.unit} at delta {statement.delta:.3g}; the ledger is kept"
    )


def _privacy(
    config: CellConfig, statement: PrivacyStatement, history: Sequence[RoundOutcome]
) -> dict[str, Any]:
    """The ``privacy`` block: what is proved, for how many records, and what is only supposed."""
    nodes = arrange_cell(config, load_data(config.dataset)).nodes
    records = {node.name: len(node.train.train_x) for node in nodes}
    # Of one record each, whatever unit the headline speaks of.
    bounds = statement.per_unit["record"].per_site
    supposed = what_if((entry.what_if_mu for entry in history), statement.delta)
    return {
        **statement.to_json(),
        **coverage({name: site.total.epsilon for name, site in bounds.items()}, records),
        "what_if": supposed and supposed.to_json(),
    }


def _unit(config: CellConfig, ledger: Ledger) -> Unit | None:
    """Whose privacy the headline speaks of: what was asked for, else the mechanism's own unit."""
    if config.privacy.unit != "auto":
        return config.privacy.unit  # type: ignore[return-value]
    # A mechanism states its own unit first (see ``mechanisms.base.Release``).
    return ledger.events[0].unit if len(ledger) else None


def _privacy_of_failure(
    config: CellConfig, folder: Path, error: Exception, heard: Sequence[RoundOutcome]
) -> dict[str, Any] | None:
    """Write the ledger of a failed cell and state what it proves; None if nothing was released.

    An error that does not say what was released is preceded by the rounds that were heard of.
    """
    told = error.released if isinstance(error, ClientFailure) else ()
    released = [Event.from_json(event) for event in told]
    released = released or [event for outcome in heard for event in outcome.events]
    if not released:
        return None
    ledger = Ledger(tuple(released))
    ledger.write(folder / LEDGER_FILE)
    try:
        return _privacy(config, _state(config, ledger, len(heard)), heard)
    except Exception:
        # The statement itself may be what failed; the ledger stays, the first error is told.
        log.exception("the releases of a failed cell have no privacy statement")
        return None


def _status(outcome: FederationOutcome, score: ScoreBlock) -> tuple[Status, str]:
    if outcome.collapse is not None:
        return "collapsed", str(outcome.collapse)
    if score.value is None:
        return "collapsed", "the score is undefined: predictions are not finite"
    margin = score.standard_error or 0.0
    if score.value <= score.chance + margin:
        return "collapsed", (
            f"{score.name} {score.value:.4f} is not above chance {score.chance:.4f} "
            f"by one standard error ({margin:.4f})"
        )
    return "ok", ""


def _score(data: FederatedData, outcome: FederationOutcome) -> ScoreBlock:
    scored = [entry.scores for entry in outcome.history if entry.scores is not None]
    if not scored:
        return ScoreBlock(data.metric, None, chance(data), None, {s.name: None for s in data.sites})
    last = scored[-1]
    return ScoreBlock(
        name=data.metric,
        value=None if outcome.collapse else finite(last.value),
        chance=last.chance,
        standard_error=finite(last.standard_error),
        per_site={site: finite(value) for site, value in last.per_site.items()},
        per_class={name: finite(value) for name, value in last.per_class.items()},
        class_sizes={name: _held_out(data, name) for name in last.per_class},
    )


def _held_out(data: FederatedData, name: str) -> int:
    """Held-out records of one class, at all sites."""
    return sum(int((site.test_y == int(name)).sum()) for site in data.sites)


def _rounds(
    config: CellConfig, outcome: FederationOutcome, statement: PrivacyStatement
) -> tuple[RoundBlock, ...]:
    total = config.federation.rounds
    protects = config.algorithm.name != "none"
    planned = strengths(config.schedule, total) if protects else (None,) * total
    told = not publishes_final_model_alone(config)
    blocks = []
    for entry in outcome.history:
        strength = planned[entry.round - 1]
        scores = entry.scores
        blocks.append(
            RoundBlock(
                round=entry.round,
                protected=strength is not None,
                strength=strength,
                steps=entry.steps,
                score=finite(scores.value) if scores else None,
                score_per_site={k: finite(v) for k, v in scores.per_site.items()} if scores else {},
                secondary={k: finite(v) for k, v in scores.secondary.items()} if scores else {},
                loss=finite(entry.loss) if told else None,
                update_norm=finite(entry.update_norm) if told else None,
                snr=signal_to_noise(entry.update_norm, entry.noise_norm) if told else None,
                epsilon=statement.epsilon_after[entry.round - 1],
                epsilon_protected=finite(statement.epsilon_protected_after[entry.round - 1]),
            )
        )
    return tuple(blocks)


def signal_to_noise(update_norm: float, noise_norm: float | None) -> float | None:
    """Norm of the averaged update without its expected noise, over that noise's expected norm.

    The update that the server sees is signal plus independent noise, so its expected squared
    norm is the sum of both; what remains after subtracting the noise estimates the signal.
    """
    if noise_norm is None or noise_norm <= 0:
        return None
    signal = max(update_norm**2 - noise_norm**2, 0.0) ** 0.5
    return finite(signal / noise_norm)


def _identity(config: CellConfig, overrides: Sequence[str]) -> CellResult:
    return CellResult(
        schema=SCHEMA,
        cell_id=cell_id(config),
        algorithm=config.algorithm.name,
        schedule=schedule_name(config),
        dataset=config.dataset.name,
        federation=config.federation.name,
        model=config.model.name,
        seed=config.seed,
        synthetic=config.dataset.source == "synthetic",
        engine=config.engine.name,
        device=_device(config.device),
        versions=versions(),
        status="failed",
        reason="",
        round=None,
        error=None,
        score=None,
        rounds=(),
        privacy=None,
        audit=None,
        verdict=None,
        timing_s={},
        sites={},
        config=meaning(config),
        overrides=tuple(overrides),
    )


def _device(asked: str) -> str:
    """The device that trains; what was asked for where this machine has no such device."""
    try:
        return str(resolve_device(asked))
    except ConfigError:
        return asked


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    packages = ("torch", "flwr", "opacus", "dp-accounting", "numpy")
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"fedprivacy": __version__, "python": platform.python_version(), **found}


def _with(result: CellResult, **changes: object) -> CellResult:
    return replace(result, **changes)  # type: ignore[arg-type]


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _describe(error: Exception) -> dict[str, str]:
    own = error.traceback_text if isinstance(error, ClientFailure) else ""
    text = own or "".join(traceback.format_exception(error))
    return {"type": type(error).__name__, "message": str(error), "traceback": text}


class Stopwatch:
    """Seconds spent in the named parts of a cell."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._parts = dict.fromkeys(("setup", "train", "evaluate", "account", "audit"), 0.0)

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time of a block to a part."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._parts[part] += time.perf_counter() - start

    def move(self, seconds: float, source: str, target: str) -> None:
        """Count time that was measured in one part as another's."""
        self._parts[source] -= seconds
        self._parts[target] += seconds

    def seconds(self) -> dict[str, float]:
        """Seconds by part, and in total."""
        total = time.perf_counter() - self._start
        return {**{k: round(v, 4) for k, v in self._parts.items()}, "total": round(total, 4)}

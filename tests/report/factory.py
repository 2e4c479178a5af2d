"""Made-up results that follow the contract field by field; nothing here was ever measured."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedprivacy.result import SCHEMA, CellResult, RoundBlock, ScoreBlock, write_result

SITES = {
    "wisconsin": ("site1", "site2", "site3"),
    "higgs": ("site1", "site2", "site3"),
    "ixi_tiny": ("Guys", "HH", "IOP"),
    "breast_density": ("site1", "site2", "site3"),
}
METRIC = {"wisconsin": "auc", "higgs": "auc", "ixi_tiny": "dice", "breast_density": "kappa"}
CHANCE = {"auc": 0.5, "dice": 0.46, "kappa": 0.0, "accuracy": 0.63}
MODEL = {"ixi_tiny": "unet3d", "breast_density": "density_cnn"}
REACHED = {"none": 0.93, "dpsgd": 0.72, "svt": 0.08, "gaussian": 0.8}
RELIEF = {"never": 0.0, "every_round": 0.0, "first_round": 0.18, "every_nth": 0.1}
FEDERATION = {"fedavg": 0.0, "central": 0.02, "local": -0.11}
EPSILONS = {"every_round": 8.181, "first_round": 2.22, "every_nth": 5.31}
PARAMETERS: dict[str, dict[str, Any]] = {
    "none": {},
    "dpsgd": {"noise_multiplier": 2.0, "sampling_rate": 0.2, "max_grad_norm": 1.0},
    "svt": {"fraction": 0.1, "epsilon": 0.1, "tau": 1e-6},
    "gaussian": {"sigma0": 0.1, "percentile": 95.0},
}


def make_result(
    algorithm: str = "dpsgd",
    schedule: str = "every_round",
    dataset: str = "higgs",
    *,
    federation: str = "fedavg",
    seed: int = 0,
    rounds: int = 8,
    status: str = "ok",
    reached: float | None = None,
    config: dict[str, Any] | None = None,
    **changes: Any,
) -> CellResult:
    """A cell as ``run_cell`` leaves it.

    Args:
        reached: final score as a share of the way from chance to 1; None: typical.
        config: dotted keys that replace those of the configuration.
        **changes: fields that replace those of the result.
    """
    schedule = "never" if algorithm == "none" else schedule
    share = _reached(algorithm, schedule, federation, seed) if reached is None else reached
    composed = _config(algorithm, schedule, dataset, federation, seed, rounds, config or {})
    name = METRIC[dataset]
    chance = CHANCE[name]
    blocks = tuple(
        _round(number, rounds, algorithm, schedule, dataset, chance, share)
        for number in range(1, rounds + 1)
    )
    last = blocks[-1]
    result = CellResult(
        schema=SCHEMA,
        cell_id=hashlib.sha256(json.dumps(composed, sort_keys=True).encode()).hexdigest()[:12],
        algorithm=algorithm,
        schedule=schedule,
        dataset=dataset,
        federation=federation,
        model=MODEL.get(dataset, "mlp"),
        seed=seed,
        synthetic=dataset != "wisconsin",
        engine="inprocess",
        device="cpu",
        versions={"fedprivacy": "0.1.0"},
        status=status,  # type: ignore[arg-type]
        reason="",
        round=None,
        error=None,
        score=ScoreBlock(name, last.score, chance, 0.011, last.score_per_site),
        rounds=blocks,
        privacy=_privacy(algorithm, schedule, rounds),
        audit=None,
        verdict=_verdict(algorithm, schedule),
        timing_s={"setup": 0.1, "train": 2.0, "total": 2.5},
        sites={site: {"train": 100, "test": 25} for site in SITES[dataset]},
        config=composed,
    )
    return replace(result, **changes)


def failed_result(**options: Any) -> CellResult:
    """A cell one of whose sites raised."""
    traceback = (
        "Traceback (most recent call last):\n"
        '  File "client.py", line 1, in train\n'
        "RuntimeError: out of memory\n"
    )
    return replace(
        make_result(**options),
        status="failed",
        reason="site Guys failed: RuntimeError: out of memory",
        error={"type": "ClientFailure", "message": "site Guys failed", "traceback": traceback},
        score=None,
        rounds=(),
        privacy=None,
        verdict=None,
        sites={},
    )


def diverged_result(**options: Any) -> CellResult:
    """A cell whose training became non-finite in round 3."""
    whole = make_result(**options, status="collapsed")
    assert whole.score is not None
    return replace(
        whole,
        reason="round 3, site Guys: the loss is not finite",
        round=3,
        rounds=whole.rounds[:2],
        score=replace(whole.score, value=None, standard_error=None),
    )


def demo_results() -> Iterator[CellResult]:
    """The grid of the demonstration sweep, with a collapse, a divergence and a failure in it."""
    for dataset in SITES:
        for federation in FEDERATION:
            yield make_result("none", dataset=dataset, federation=federation)
        for algorithm in ("dpsgd", "svt", "gaussian"):
            for schedule in ("every_round", "first_round", "every_nth"):
                cell = {"algorithm": algorithm, "schedule": schedule, "dataset": dataset}
                if (algorithm, schedule, dataset) == ("svt", "every_round", "ixi_tiny"):
                    yield diverged_result(**cell)
                elif (algorithm, schedule, dataset) == ("gaussian", "first_round", "ixi_tiny"):
                    yield failed_result(**cell)
                elif (algorithm, schedule) == ("svt", "every_round"):
                    yield make_result(**cell, reached=0.005, status="collapsed")
                else:
                    yield make_result(**cell)


def write_sweep(folder: Path, results: Iterator[CellResult] | list[CellResult]) -> Path:
    """Leave the cells as a sweep does: a folder each, with a ledger and Hydra's configuration."""
    for result in results:
        cell = folder / result.cell_id
        (cell / ".hydra").mkdir(parents=True, exist_ok=True)
        (cell / ".hydra" / "config.yaml").write_text("seed: 0\n", encoding="utf-8")
        (cell / "ledger.jsonl").write_text('{"round": 1}\n', encoding="utf-8")
        write_result(cell, result)
    return folder


def _reached(algorithm: str, schedule: str, federation: str, seed: int) -> float:
    base = REACHED.get(algorithm, 0.5) + RELIEF.get(schedule, 0.0) + FEDERATION[federation]
    return base + 0.01 * math.sin(7.0 * seed)


def _protected(schedule: str, algorithm: str, number: int) -> bool:
    if algorithm == "none":
        return False
    if schedule == "first_round":
        return number == 1
    return schedule != "every_nth" or number % 2 == 1


def _round(
    number: int,
    rounds: int,
    algorithm: str,
    schedule: str,
    dataset: str,
    chance: float,
    share: float,
) -> RoundBlock:
    protected = _protected(schedule, algorithm, number)
    progress = 1 - math.exp(-4.0 * number / rounds)
    wobble = 0.03 * math.sin(2.3 * number + len(algorithm)) * (protected and algorithm != "none")
    score = chance + (1 - chance) * (share * progress + wobble)
    sites = {
        site: score + 0.03 * (index - 1) + 0.01 * math.sin(number + index)
        for index, site in enumerate(SITES[dataset])
    }
    finite = algorithm == "dpsgd" and schedule == "every_round"
    return RoundBlock(
        round=number,
        protected=protected,
        strength=1.0 if protected else None,
        steps=5,
        score=score,
        score_per_site=sites,
        secondary={} if METRIC[dataset] == "dice" else {"accuracy": 0.6 + 0.02 * number},
        loss=1.0 / number,
        update_norm=0.5,
        snr=0.4 if protected else None,
        epsilon=8.181 * math.sqrt(number / rounds) if finite else None,
        epsilon_protected=(
            EPSILONS[schedule] * math.sqrt(number / rounds) if algorithm == "dpsgd" else None
        ),
    )


def _privacy(algorithm: str, schedule: str, rounds: int) -> dict[str, Any]:
    protected = sum(_protected(schedule, algorithm, n) for n in range(1, rounds + 1))
    record = algorithm in ("none", "dpsgd")
    finite = algorithm == "dpsgd" and protected == rounds
    bounded = algorithm == "dpsgd"
    return {
        "unit": "record" if record else "site",
        "neighbouring": "zero_out" if record else "replace_one",
        "view": "server_updates",
        "delta": 1e-5,
        "direction": "upper bound, proved",
        "randomness": "seeded",
        "infinite": not finite,
        "epsilon": EPSILONS["every_round"] if finite else None,
        "reason": "" if finite else "a record was used in an unprotected release",
        "epsilon_protected": EPSILONS[schedule] if bounded else None,
        "epsilon_protected_infinite": bool(protected) and not bounded,
        "protected_rounds": protected,
        "rounds": rounds,
        "protected_share": protected / rounds,
        "accountant": "PLD" if bounded else "",
        "assumptions": [],
    }


def _verdict(algorithm: str, schedule: str) -> str:
    if algorithm != "dpsgd":
        return "unprotected"
    return "proven" if schedule == "every_round" else "partial"


def _config(
    algorithm: str,
    schedule: str,
    dataset: str,
    federation: str,
    seed: int,
    rounds: int,
    changes: dict[str, Any],
) -> dict[str, Any]:
    """What ``meaning`` keeps of a configuration."""
    config: dict[str, Any] = {
        "seed": seed,
        "algorithm": {"name": algorithm, **PARAMETERS.get(algorithm, {})},
        "dataset": {"name": dataset, "source": "synthetic", "size": "demo", "n_sites": 3},
        "federation": {"name": federation, "rounds": rounds, "lr": 0.1, "batch_size": 32},
        "model": {"name": MODEL.get(dataset, "mlp"), "hidden": [64, 64]},
        "privacy": {},
    }
    if algorithm != "none":
        config["schedule"] = {"name": schedule, "decay": 1.0, "n": 2, "offset": 0}
        config["privacy"] = {"delta": None, "unit": "auto", "view": "server_updates"}
    for key, value in changes.items():
        group, _, leaf = key.partition(".")
        config[group][leaf] = value
    return config


def claim(unit: str, relation: str, view: str, epsilon: float | None, cap: float = 0.05) -> dict:
    return {
        "unit": unit, "neighbouring": relation, "view": view, "epsilon": epsilon,
        "infinite": epsilon is None, "max_tpr_at_fpr": {"0.01": cap},
    }  # fmt: skip


def stated(result, unit: str, relation: str, views: dict[str, float | None], patient=None):
    """The result with claims for its own unit by view, and for a patient."""
    own = views["server_updates"]
    privacy = {
        **result.privacy, "unit": unit, "neighbouring": relation, "view": "server_updates",
        "delta": 1e-5, "epsilon": own, "infinite": own is None,
        "per_view": {v: claim(unit, relation, v, e) for v, e in views.items()},
        "per_unit": {"patient": claim("patient", relation, "server_updates", patient)},
    }  # fmt: skip
    return replace(result, privacy=privacy)

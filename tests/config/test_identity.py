"""A cell is what it means, not where, on what device or by which engine it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedprivacy.config.composition import compose_cell, hydra_ready
from fedprivacy.config.identity import cell_id, schedule_name
from fedprivacy.config.loading import to_cell_config
from fedprivacy.config.schema import CellConfig
from fedprivacy.data.files import NOTICE_NAME
from fedprivacy.data.ixi_generator import generate_subjects


def config_of(*overrides: str) -> CellConfig:
    with hydra_ready():
        return to_cell_config(compose_cell(overrides))


BASE = cell_id(config_of())


@pytest.mark.parametrize(
    "override",
    [
        "device=cpu",
        "engine=ray",
        "engine=stacked",
        "engine.timeout_s=5",
        "tracking.enabled=false",
        "sweep.workers=2",
        "dataset.root=elsewhere",
        "algorithm.grad_engine=loop",
        "algorithm.divisor=30.0",  # what null means: sampling_rate * declared_records
        "dataset.training.lr=0.05",
    ],
)
def test_what_bears_no_meaning(override: str) -> None:
    assert cell_id(config_of(override)) == BASE


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "algorithm.noise_multiplier=3",
        "algorithm=svt",
        "schedule=first_round",
        "schedule.decay=0.9",
        "federation.rounds=3",
        "federation.lr=0.01",
        "federation=local",
        "dataset.n_sites=4",
        "dataset.partition=linear",
        "dataset.split_seed=1",
        "dataset.declared_records=200",
        "model.hidden=[32]",
        "privacy=seeded",
        "privacy.delta=1e-6",
        "engine.precision=bf16",  # a little less than float32
    ],
)
def test_what_bears_meaning(override: str) -> None:
    assert cell_id(config_of(override)) != BASE


def test_a_split_file_is_its_content_not_its_path(tmp_path: Path) -> None:
    root = tmp_path / "data"
    generate_subjects(root / "real" / "ixi_tiny", {"Guys": 1, "HH": 1, "IOP": 1}, seed=0)
    (root / "real" / "ixi_tiny" / NOTICE_NAME).unlink()
    words = ["dataset=ixi_tiny", "dataset.source=real", f"dataset.root={root}"]
    ids = []
    for name, text in (("a.csv", "one\n"), ("b.csv", "one\n"), ("c.csv", "other\n")):
        (tmp_path / name).write_text(text)
        ids.append(cell_id(config_of(*words, f"dataset.split_file={tmp_path / name}")))
    assert ids[0] == ids[1] != ids[2]
    assert ids[0] != cell_id(config_of(*words))


def test_all_schedules_share_one_twin() -> None:
    twins = {
        cell_id(config_of("algorithm=none", f"schedule={name}"))
        for name in ("every_round", "first_round", "every_nth")
    }
    assert len(twins) == 1
    assert schedule_name(config_of("algorithm=none")) == "never"


def test_the_identity_is_stable() -> None:
    assert cell_id(config_of()) == BASE
    assert len(BASE) == 12
    assert set(BASE) <= set("0123456789abcdef")

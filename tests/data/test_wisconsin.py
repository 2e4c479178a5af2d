"""Wisconsin: real records, scaled by published constants, divided over sites."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from sklearn.datasets import load_breast_cancer

from fedprivacy.config.schema import WisconsinConf
from fedprivacy.data.partitions import PARTITION_KINDS
from fedprivacy.data.wisconsin import (
    DATASET,
    PUBLISHED_MAX,
    PUBLISHED_MIN,
    read_records,
    verify,
)
from fedprivacy.errors import ConfigError

CONF = WisconsinConf(partition="uniform", declared_records=150, metric="accuracy")
CONF_FILE = Path(__file__).parents[2] / "conf" / "dataset" / "wisconsin.yaml"


def test_records_are_the_originals_up_to_the_published_scaling() -> None:
    raw, labels = load_breast_cancer(return_X_y=True)
    features, found = read_records()
    low, high = np.array(PUBLISHED_MIN), np.array(PUBLISHED_MAX)
    np.testing.assert_allclose((features + 1) / 2 * (high - low) + low, raw, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found, labels)
    assert features.dtype == np.float32
    assert found.dtype == np.int64
    assert np.abs(features).max() < 1.1
    assert np.abs(features).max(axis=0).min() > 0.9


def test_published_table_is_the_one_in_the_description() -> None:
    """Read from the text that scikit-learn ships, so a typing error cannot pass."""
    rows = [line.rsplit(maxsplit=2) for line in load_breast_cancer().DESCR.splitlines()]
    table = [row for row in rows if len(row) == 3 and row[0].strip().endswith("):")]
    assert [float(row[1]) for row in table] == list(PUBLISHED_MIN)
    assert [float(row[2]) for row in table] == list(PUBLISHED_MAX)


@pytest.mark.parametrize("kind", PARTITION_KINDS)
def test_every_record_is_at_one_site_on_one_side(kind: str) -> None:
    data = DATASET.load(replace(CONF, partition=kind))
    assert (data.name, data.task, data.n_classes) == ("wisconsin", "binary", 2)
    assert (data.input_shape, data.metric, data.synthetic) == ((30,), "accuracy", False)
    features, labels = read_records()
    names: list[str] = []
    for site in data.sites:
        for x, y, patients in (
            (site.train_x, site.train_y, site.train_patients),
            (site.test_x, site.test_y, site.test_patients),
        ):
            assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
            assert x.is_contiguous()
            assert len(x) == len(y) == len(patients) > 0
            rows = [int(name.removeprefix("row-")) for name in patients]
            np.testing.assert_array_equal(x.numpy(), features[rows])
            np.testing.assert_array_equal(y.numpy(), labels[rows])
            names += list(patients)
    assert len(names) == len(set(names)) == 569


def test_same_configuration_same_records_and_size_does_not_matter() -> None:
    one = DATASET.load(CONF)
    for other in (DATASET.load(CONF), DATASET.load(replace(CONF, size="demo"))):
        assert other.fingerprint == one.fingerprint == DATASET.fingerprint(CONF)
        for a, b in zip(one.sites, other.sites, strict=True):
            assert torch.equal(a.train_x, b.train_x)
            assert torch.equal(a.test_y, b.test_y)
    moved = DATASET.load(replace(CONF, split_seed=1))
    assert not torch.equal(moved.sites[0].train_x[:20], one.sites[0].train_x[:20])


def test_split_of_a_patient_does_not_depend_on_the_partition() -> None:
    def held_out(kind: str) -> set[str]:
        sites = DATASET.load(replace(CONF, partition=kind)).sites
        return {str(name) for site in sites for name in site.test_patients}

    assert held_out("uniform") == held_out("square") == held_out("dirichlet")


def test_scaling_and_unit_are_declared() -> None:
    text = " ".join(DATASET.load(CONF).assumptions)
    assert "minimum and maximum that the dataset's own description prints" in text
    assert "one record is one patient" in text


def test_what_these_data_do_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"dataset\.source='synthetic'.*dataset\.source=real"):
        DATASET.prepare(replace(CONF, source="synthetic"))
    with pytest.raises(ConfigError, match="one of uniform, linear, square, exponential, dirichlet"):
        DATASET.load(replace(CONF, partition="natural"))
    with pytest.raises(ConfigError, match=r"dataset\.n_sites=100 .* from 1 to 56"):
        DATASET.load(replace(CONF, n_sites=100))


def test_installed_copy_is_sound_and_a_changed_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert verify(tmp_path, "real") == []
    assert verify(tmp_path, "synthetic") == ["source 'synthetic': wisconsin has real records only"]
    raw, labels = load_breast_cancer(return_X_y=True)
    path = "fedprivacy.data.wisconsin.load_breast_cancer"

    changed = raw.copy()
    changed[raw[:, 3].argmax(), 3] += 10.0
    monkeypatch.setattr(path, lambda return_X_y: (changed, labels))
    assert verify(tmp_path, "real") == ["feature 3: maximum 2511.0, published 2501.0"]
    monkeypatch.setattr(path, lambda return_X_y: (raw, 1 - labels))
    assert "(357, 212)" in verify(tmp_path, "real")[0]
    monkeypatch.setattr(path, lambda return_X_y: (raw[:500], labels[:500]))
    assert "found (500, 30)" in verify(tmp_path, "real")[0]


def shipped() -> WisconsinConf:
    """conf/dataset/wisconsin.yaml over the schema, without Hydra."""
    values = yaml.safe_load(CONF_FILE.read_text())
    assert values.pop("defaults") == ["base_wisconsin", "_self_"]
    training = replace(CONF.training, **values.pop("training"))
    values["declared_records"] = values["declared_by_size"][values.get("size", CONF.size)]
    assert set(values) <= set(asdict(CONF))
    return replace(CONF, **values, training=training)


def test_declared_records_are_near_what_a_site_has() -> None:
    conf = shipped()
    for site in DATASET.load(conf).sites:
        assert abs(len(site.train_x) - conf.declared_records) < 0.15 * conf.declared_records


def test_shipped_training_values_reach_the_promised_accuracy() -> None:
    """FedAvg of a 30-32-1 network in plain torch, with the values of the configuration file."""
    conf = shipped()
    data, training = DATASET.load(conf), conf.training
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(30, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
    loss_of = torch.nn.functional.binary_cross_entropy_with_logits
    shares = [len(site.train_x) for site in data.sites]
    for _ in range(training.rounds):
        start = {name: value.clone() for name, value in model.state_dict().items()}
        mean = {name: torch.zeros_like(value) for name, value in start.items()}
        for site, share in zip(data.sites, shares, strict=True):
            model.load_state_dict(start)
            optimizer = torch.optim.SGD(model.parameters(), training.lr, training.momentum)
            for _ in range(int(training.local_epochs)):
                for batch in torch.randperm(share).split(training.batch_size):
                    optimizer.zero_grad()
                    target = site.train_y[batch].float()
                    loss_of(model(site.train_x[batch])[:, 0], target).backward()
                    optimizer.step()
            for name, value in model.state_dict().items():
                mean[name] += value * (share / sum(shares))
        model.load_state_dict(mean)
    with torch.no_grad():
        right = [((model(s.test_x)[:, 0] > 0).long() == s.test_y) for s in data.sites]
    assert torch.cat(right).float().mean() > 0.94

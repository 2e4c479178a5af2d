"""What every dataset owes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedprivacy.config.schema import DatasetConf
from fedprivacy.data.base import FederatedData
from fedprivacy.data.registry import get_dataset
from fedprivacy.data.shapes import record_shape, task_of
from fedprivacy.errors import DataError


def load(conf: DatasetConf) -> FederatedData:
    dataset = get_dataset(conf.name)
    dataset.prepare(conf)
    return dataset.load(conf)


class DatasetContract:
    """Subclasses say which dataset: a class-scoped fixture ``conf`` of few records."""

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls, conf: DatasetConf) -> FederatedData:
        return load(conf)

    def test_shapes_and_types_are_as_announced(self, conf, data) -> None:
        assert data.name == conf.name
        assert data.input_shape == record_shape(conf)
        assert data.task == task_of(conf)
        for site in data.sites:
            for x, y in ((site.train_x, site.train_y), (site.test_x, site.test_y)):
                assert x.dtype == torch.float32
                assert y.dtype == torch.int64
                assert x.shape == (len(y), *data.input_shape)
                assert bool(torch.isfinite(x).all())
                if len(y):
                    assert 0 <= int(y.min()) <= int(y.max()) < data.n_classes

    def test_every_site_has_a_name_of_its_own_and_records_to_train_on(self, data) -> None:
        assert len({site.name for site in data.sites}) == len(data.sites) >= 1
        assert all(len(site.train_x) > 0 for site in data.sites)
        assert sum(len(site.test_x) for site in data.sites) > 0

    def test_no_patient_is_on_two_sides(self, data) -> None:
        held_out = np.concatenate([site.test_patients for site in data.sites])
        trained = np.concatenate([site.train_patients for site in data.sites])
        assert not set(held_out) & set(trained)
        for site in data.sites:
            assert len(site.train_patients) == len(site.train_x)
            assert len(site.test_patients) == len(site.test_x)

    def test_equal_settings_give_equal_records(self, conf, data) -> None:
        again = load(replace(conf))
        assert again.fingerprint == data.fingerprint
        for one, other in zip(data.sites, again.sites, strict=True):
            assert torch.equal(one.train_x, other.train_x)
            assert torch.equal(one.train_y, other.train_y)
            assert list(one.train_patients) == list(other.train_patients)

    def test_the_fingerprint_needs_no_loading_and_says_the_same(self, conf, data) -> None:
        assert get_dataset(conf.name).fingerprint(conf) == data.fingerprint

    def test_made_up_records_are_marked(self, conf, data) -> None:
        assert data.synthetic == (conf.source == "synthetic")

    def test_real_records_that_are_missing_are_no_stand_in(self, conf, tmp_path) -> None:
        if conf.name == "wisconsin":
            assert not load(replace(conf, source="real", root=str(tmp_path))).synthetic
            return
        real = replace(conf, source="real", size="full", root=str(tmp_path))
        with pytest.raises(DataError, match=f"fedprivacy data download {conf.name}"):
            get_dataset(conf.name).prepare(real)

    def test_a_cap_on_records_per_patient_holds(self, conf) -> None:
        capped = load(replace(conf, max_records_per_patient=1))
        for site in capped.sites:
            assert len(set(site.train_patients)) == len(site.train_patients)

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from fedprivacy.data.base import FederatedData, SiteData
from fedprivacy.data.shares import keep_share


def data() -> FederatedData:
    sites = []
    for name, patients in (("a", 20), ("b", 3)):
        who = np.repeat([f"{name}{index}" for index in range(patients)], 2)
        x = torch.arange(2 * patients).float()[:, None]
        sites.append(SiteData(name, x, x[:, 0].long(), x, x[:, 0].long(), who, who))
    return FederatedData("any", "binary", 2, (1,), "auc", tuple(sites), False, "f")


def test_shares_are_nested_whole_patients_and_leave_held_out_records() -> None:
    kept = [keep_share(data(), share, 4) for share in (0.1, 0.5, 1.0)]
    for smaller, larger in pairwise(kept):
        for one, other in zip(smaller.sites, larger.sites, strict=True):
            assert set(one.train_patients) <= set(other.train_patients)
    half = kept[1].sites[0]
    assert len(set(half.train_patients)) == 10
    assert len(half.train_x) == len(half.train_y) == 20
    assert len(half.test_x) == 40


def test_every_site_keeps_a_patient_and_seeds_choose_others() -> None:
    assert len(set(keep_share(data(), 0.01, 4).sites[1].train_patients)) == 1
    chosen = {tuple(keep_share(data(), 0.2, s).sites[0].train_patients) for s in range(6)}
    assert len(chosen) > 1
    whole = data()
    assert keep_share(whole, 1.0, 4) is whole


@pytest.mark.parametrize("share", ["0", "1.5"])
def test_a_share_that_is_none_is_refused(tiny, share: str) -> None:
    from fedprivacy.config.validation import validate
    from fedprivacy.errors import ConfigError

    with pytest.raises(ConfigError, match="train_share"):
        validate(tiny(f"dataset.train_share={share}"))


def test_a_cell_trains_on_its_share(tiny, tmp_path) -> None:
    from fedprivacy.cell import run_cell
    from fedprivacy.config.identity import cell_id

    half = tiny("dataset.train_share=0.5", "federation.rounds=1")
    sizes = run_cell(half, tmp_path).sites
    whole = run_cell(tiny("federation.rounds=1"), tmp_path / "whole").sites
    for name, size in sizes.items():
        assert size["train"] == whole[name]["train"] // 2
        assert size["test"] == whole[name]["test"]
    assert cell_id(half) != cell_id(tiny("federation.rounds=1"))

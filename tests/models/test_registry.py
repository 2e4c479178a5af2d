from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fedprivacy.config.schema import DensityCnnConf, MlpConf, ModelConf, UNet3dConf
from fedprivacy.data.base import FederatedData, SiteData, Task
from fedprivacy.errors import ConfigError, ProtectionError
from fedprivacy.models import registry
from fedprivacy.models.registry import (
    MODELS,
    build_model,
    check_model_fits,
    check_model_values,
    per_sample_faults,
)
from fedprivacy.training.parameters import FlatParameters


def _data(input_shape: tuple[int, ...], task: Task, n_classes: int = 2) -> FederatedData:
    none = torch.zeros(0, *input_shape)
    nobody = np.array([], dtype=np.str_)
    site = SiteData("a", none, torch.zeros(0), none, torch.zeros(0), nobody, nobody)
    return FederatedData("toy", task, n_classes, input_shape, "accuracy", (site,), True, "0")


TABLE = _data((6,), "binary")
IMAGES = _data((1, 16, 16), "multiclass", 4)
VOLUMES = _data((1, 8, 9, 8), "segmentation")
FITTING = [
    (MlpConf(), TABLE, 1),
    (MlpConf(hidden=[]), _data((6,), "multiclass", 3), 3),
    (DensityCnnConf(), IMAGES, 4),
    (DensityCnnConf(), _data((3, 9, 8), "binary"), 1),
    (UNet3dConf(first_channels=2), VOLUMES, 2),
    (UNet3dConf(first_channels=2, norm="none"), VOLUMES, 2),
]


@pytest.mark.parametrize(("conf", "data", "outputs"), FITTING)
def test_builds_a_safe_model_of_the_right_shape(
    conf: ModelConf, data: FederatedData, outputs: int
) -> None:
    model = build_model(conf, data, seed=0)
    assert model(torch.zeros(2, *data.input_shape)).shape[:2] == (2, outputs)
    assert per_sample_faults(model) == []
    assert list(model.buffers()) == []
    assert FlatParameters(model).size == sum(p.numel() for p in model.parameters())


def test_all_models_are_covered() -> None:
    assert {conf.name for conf, _, _ in FITTING} == set(MODELS)


@pytest.mark.parametrize(("conf", "data", "outputs"), FITTING)
def test_weights_are_a_function_of_the_seed(
    conf: ModelConf, data: FederatedData, outputs: int
) -> None:
    torch.manual_seed(1)
    first = FlatParameters(build_model(conf, data, 5)).flat
    torch.manual_seed(2)
    assert torch.equal(first, FlatParameters(build_model(conf, data, 5)).flat)
    assert not torch.equal(first, FlatParameters(build_model(conf, data, 6)).flat)


def test_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    build_model(MlpConf(), TABLE, 5)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("conf", "data", "fix"),
    [
        (MlpConf(), IMAGES, "model=density_cnn"),
        (MlpConf(), VOLUMES, "model=unet3d"),
        (DensityCnnConf(), TABLE, "model=mlp"),
        (DensityCnnConf(), VOLUMES, "model=unet3d"),
        (UNet3dConf(), TABLE, "model=mlp"),
        (UNet3dConf(), IMAGES, "model=density_cnn"),
        (DensityCnnConf(), _data((1, 16, 16), "segmentation"), "another dataset"),
    ],
)
def test_a_model_that_does_not_fit_names_the_one_that_does(
    conf: ModelConf, data: FederatedData, fix: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build_model(conf, data, 0)
    assert caught.value.key == "model"
    assert caught.value.value == conf.name
    assert caught.value.fix.startswith(fix)
    assert str(data.input_shape) in str(caught.value)


def test_records_too_small_for_the_halvings_are_refused() -> None:
    check_model_fits(DensityCnnConf(channels=[4, 4, 4]), (1, 8, 9), "binary")
    with pytest.raises(ConfigError, match="at least 8"):
        check_model_fits(DensityCnnConf(channels=[4, 4, 4]), (1, 7, 9), "binary")
    check_model_fits(UNet3dConf(levels=3), (1, 4, 5, 6), "segmentation")
    with pytest.raises(ConfigError, match="at least 4"):
        check_model_fits(UNet3dConf(levels=3), (1, 4, 3, 6), "segmentation")


@pytest.mark.parametrize(
    ("conf", "key"),
    [
        (ModelConf(name="resnet"), "model"),
        (MlpConf(hidden=[4, 0]), "model.hidden"),
        (DensityCnnConf(channels=[]), "model.channels"),
        (DensityCnnConf(channels=[-1]), "model.channels"),
        (DensityCnnConf(groups=0), "model.groups"),
        (UNet3dConf(first_channels=0), "model.first_channels"),
        (UNet3dConf(levels=0), "model.levels"),
        (UNet3dConf(groups=0), "model.groups"),
        (UNet3dConf(norm="batch"), "model.norm"),
    ],
)
def test_values_out_of_range_name_their_key(conf: ModelConf, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_model_values(conf)
    assert caught.value.key == key


def _twice() -> nn.Module:
    shared = nn.Linear(2, 2)
    return nn.ModuleDict({"one": shared, "two": nn.Sequential(shared)})


def _tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        (nn.BatchNorm1d(2), "buffer running_mean"),
        (nn.InstanceNorm3d(2, track_running_stats=True), "buffer running_mean"),
        (nn.BatchNorm3d(2, track_running_stats=False), "batch normalisation"),
        (nn.Sequential(nn.ReLU(inplace=True)), "in-place activation 0"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "padding_mode"),
        (nn.Conv3d(1, 1, 3, padding=1, padding_mode="replicate"), "padding_mode"),
        (_twice(), "module two.0 is also one"),
        (_tied(), "parameter 1.weight is also 0.weight"),
    ],
)
def test_faults_are_found(model: nn.Module, fault: str) -> None:
    assert any(found.startswith(fault) for found in per_sample_faults(model))


def test_instance_norm_is_no_batch_norm() -> None:
    assert per_sample_faults(nn.InstanceNorm2d(2, affine=True)) == []


def test_an_unsafe_model_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = registry.ModelEntry(
        lambda conf, inputs, outputs: nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(1)),
        "a row",
        1,
        frozenset({"binary"}),
    )
    monkeypatch.setitem(MODELS, "mlp", entry)
    with pytest.raises(ProtectionError, match=r"model=mlp .*running_mean"):
        build_model(MlpConf(), TABLE, 0)

"""The models by name: which data each suits, and how it is built from a configuration.

A new model is one file in this package, its configuration in ``fedprivacy.config.schema`` and an
entry in ``MODELS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from fedprivacy.config.schema import DensityCnnConf, MlpConf, ModelConf, UNet3dConf
from fedprivacy.data.base import FederatedData, Task
from fedprivacy.errors import ConfigError, ProtectionError
from fedprivacy.models.density_cnn import DensityCnn
from fedprivacy.models.mlp import Mlp
from fedprivacy.models.unet3d import NORMS, UNet3d


def _build_mlp(conf: ModelConf, in_channels: int, outputs: int) -> nn.Module:
    assert isinstance(conf, MlpConf)
    return Mlp(in_channels, conf.hidden, outputs)


def _build_density_cnn(conf: ModelConf, in_channels: int, outputs: int) -> nn.Module:
    assert isinstance(conf, DensityCnnConf)
    return DensityCnn(in_channels, conf.channels, conf.groups, outputs)


def _build_unet3d(conf: ModelConf, in_channels: int, outputs: int) -> nn.Module:
    assert isinstance(conf, UNet3dConf)
    return UNet3d(in_channels, outputs, conf.first_channels, conf.levels, conf.norm, conf.groups)


@dataclass(frozen=True)
class ModelEntry:
    """One model of the registry.

    Attributes:
        build: (configuration, columns or channels of a record, logits) -> module.
        records: what one record is, in words.
        axes: number of axes of one record, the channel axis included.
        tasks: tasks that its logits fit.
        halvings: how often it halves each spatial axis, from its configuration.
    """

    build: Callable[[ModelConf, int, int], nn.Module]
    records: str
    axes: int
    tasks: frozenset[Task]
    halvings: Callable[[ModelConf], int] = lambda conf: 0


MODELS: dict[str, ModelEntry] = {
    "mlp": ModelEntry(
        _build_mlp, "a row of a table (columns,)", 1, frozenset({"binary", "multiclass"})
    ),
    "density_cnn": ModelEntry(
        _build_density_cnn,
        "a 2-D image (channels, height, width)",
        3,
        frozenset({"binary", "multiclass"}),
        lambda conf: len(conf.channels) if isinstance(conf, DensityCnnConf) else 0,
    ),
    "unet3d": ModelEntry(
        _build_unet3d,
        "a volume (channels, depth, height, width)",
        4,
        frozenset({"segmentation"}),
        lambda conf: conf.levels - 1 if isinstance(conf, UNet3dConf) else 0,
    ),
}


def build_model(conf: ModelConf, data: FederatedData, seed: int) -> nn.Module:
    """The model for these data on the CPU, float32, its weights a function of ``seed`` only.

    Leaves torch's global random state, CPU and CUDA, as found.

    Raises:
        ConfigError: the model does not fit the data, see ``check_model_fits``.
        ProtectionError: the model is not safe for per-sample gradients, see
            ``per_sample_faults``.
    """
    check_model_fits(conf, data.input_shape, data.task)
    outputs = 1 if data.task == "binary" else data.n_classes
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would also seed CUDA, which is not forked here.
        torch.default_generator.manual_seed(seed)
        model = MODELS[conf.name].build(conf, data.input_shape[0], outputs)
    faults = per_sample_faults(model)
    if faults:
        raise ProtectionError(
            f"model={conf.name} is not safe for per-sample gradients: {'; '.join(faults)}"
        )
    return model


def check_model_fits(conf: ModelConf, input_shape: tuple[int, ...], task: Task) -> None:
    """Refuse a model that cannot be trained on these records.

    Args:
        conf: the model's configuration.
        input_shape: shape of one record without the batch axis, channels first.
        task: what is predicted.

    Raises:
        ConfigError: key ``model``, or ``model.<field>`` where a field is out of range.
    """
    check_model_values(conf)
    entry = MODELS[conf.name]
    if len(input_shape) != entry.axes or task not in entry.tasks:
        fitting = [
            name
            for name, other in MODELS.items()
            if len(input_shape) == other.axes and task in other.tasks
        ]
        raise ConfigError(
            "model",
            conf.name,
            f"it takes {entry.records} for {' or '.join(sorted(entry.tasks))}, but this dataset "
            f"has records of shape {tuple(input_shape)} for {task}",
            " or ".join(f"model={name}" for name in fitting)
            or "another dataset, or add a model for such records to fedprivacy.models.registry",
        )
    smallest = 2 ** entry.halvings(conf)
    if min(input_shape[1:], default=smallest) < smallest:
        raise ConfigError(
            "model",
            conf.name,
            f"it halves each spatial axis {entry.halvings(conf)} times, so every side needs at "
            f"least {smallest}, but this dataset has records of shape {tuple(input_shape)}",
            "fewer model.channels or model.levels, or larger records",
        )


def check_model_values(conf: ModelConf) -> None:
    """Refuse an unknown model and fields out of range; needs no data.

    Raises:
        ConfigError: key ``model`` or ``model.<field>``.
    """
    if conf.name not in MODELS:
        choices = ", ".join(sorted(MODELS))
        raise ConfigError("model", conf.name, f"one of {choices}", "model=mlp")
    if isinstance(conf, MlpConf):
        _require_positive("hidden", conf.hidden, "model.hidden=[64,64]")
    elif isinstance(conf, DensityCnnConf):
        _require_positive("channels", conf.channels, "model.channels=[16,32,64]")
        if not conf.channels:
            raise ConfigError(
                "model.channels", [], "at least one block", "model.channels=[16,32,64]"
            )
        _require_positive("groups", [conf.groups], "model.groups=4")
    elif isinstance(conf, UNet3dConf):
        _require_positive("first_channels", [conf.first_channels], "model.first_channels=8")
        _require_positive("levels", [conf.levels], "model.levels=3")
        _require_positive("groups", [conf.groups], "model.groups=4")
        if conf.norm not in NORMS:
            allowed = "one of " + ", ".join(NORMS)
            raise ConfigError("model.norm", conf.norm, allowed, "model.norm=group")


def _require_positive(name: str, numbers: list[int], fix: str) -> None:
    for number in numbers:
        if number < 1:
            raise ConfigError(f"model.{name}", number, "at least 1", fix)


def per_sample_faults(model: nn.Module) -> list[str]:
    """What makes per-sample gradients of a model wrong, impossible or a leak; empty when safe.

    Finds buffers and batch normalisation (records of a batch mix, and statistics leave the site
    raw), modules and parameters under two names (Opacus' hooks count them twice), in-place
    activations (its hooks fail) and convolutions that do not pad with zeros (its hooks compute
    another gradient and may exceed the clip norm).
    """
    faults = [f"buffer {name}" for name, _ in model.named_buffers()]
    seen: dict[int, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if id(module) in seen:
            faults.append(f"module {name} is also {seen[id(module)]}")
            continue
        seen[id(module)] = name
        if isinstance(module, nn.modules.batchnorm._NormBase) and not isinstance(
            module, nn.modules.instancenorm._InstanceNorm
        ):
            faults.append(f"batch normalisation {name}")
        if getattr(module, "inplace", False):
            faults.append(f"in-place activation {name}")
        if getattr(module, "padding_mode", "zeros") != "zeros":
            faults.append(f"padding_mode of {name} is not zeros")
        for kind, parameter in module.named_parameters(recurse=False):
            place = f"{name}.{kind}".lstrip(".")
            if id(parameter) in seen:
                faults.append(f"parameter {place} is also {seen[id(parameter)]}")
            seen[id(parameter)] = place
    return faults

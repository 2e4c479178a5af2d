"""Settles what a configuration leaves to be worked out: the noise of DP-SGD.

What travels to the sites, names the cell and stands in its result is then a number, found once.
Imports next to nothing: every composed configuration passes through here, also where only help is
asked for, and the accounting libraries are slow to load.
"""

from __future__ import annotations

from dataclasses import replace

from fedprivacy.config.schema import (
    CellConfig,
    DpsgdConf,
    GaussianClippedConf,
    StackedConf,
    SvtExactConf,
)
from fedprivacy.config.stack import completed
from fedprivacy.errors import ConfigError


def settle(config: CellConfig) -> CellConfig:
    """The configuration with its noise multiplier filled in; unchanged where it stands already.

    A null noise multiplier of DP-SGD becomes the dataset's default, or what ``target_epsilon`` asks
    for (see ``calibration``); that of a filter, 1 unless it is given, what its target asks for; the
    parts of a stack get all their settings. Settled configurations stay as
    they are.

    Raises:
        ConfigError: both a target and another noise were given, the target cannot be met, or the
            configuration is unsound in another way.
        DataError: real files are missing.
    """
    conf = config.algorithm
    if isinstance(conf, StackedConf):
        return replace(config, algorithm=completed(conf, config.dataset))
    if isinstance(conf, GaussianClippedConf | SvtExactConf):
        return _settled_filter(config, conf)
    if not isinstance(conf, DpsgdConf):
        return config
    if conf.target_epsilon is None:
        if conf.noise_multiplier is not None:
            return config
        usual = config.dataset.training.noise_multiplier
        return replace(config, algorithm=replace(conf, noise_multiplier=usual))
    from fedprivacy.mechanisms.calibration import target_noise

    noise = target_noise(config).noise_multiplier
    if conf.noise_multiplier not in (None, noise):
        raise _both(conf.target_epsilon, conf.noise_multiplier, noise)
    return replace(config, algorithm=replace(conf, noise_multiplier=noise))


def _settled_filter(config: CellConfig, conf: GaussianClippedConf | SvtExactConf) -> CellConfig:
    if conf.target_epsilon is None:
        return config
    from fedprivacy.mechanisms.calibration import target_noise
    from fedprivacy.mechanisms.filter_calibration import USUAL

    noise = target_noise(config).noise_multiplier
    if conf.noise_multiplier not in (USUAL, noise):
        raise _both(conf.target_epsilon, conf.noise_multiplier, noise)
    return replace(config, algorithm=replace(conf, noise_multiplier=noise))


def _both(target: float, given: float | None, noise: float) -> ConfigError:
    return ConfigError(
        "algorithm.noise_multiplier",
        given,
        f"null with algorithm.target_epsilon={target:g}, which calibrates it (to {noise:g} here): "
        "one or the other",
        "drop algorithm.noise_multiplier, or algorithm.target_epsilon",
    )

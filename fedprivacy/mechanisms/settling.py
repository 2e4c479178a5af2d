"""Settles what a configuration leaves to be worked out: the noise of DP-SGD.

What travels to the sites, names the cell and stands in its result is then a number, found once.
Imports next to nothing: every composed configuration passes through here, also where only help is
asked for, and the accounting libraries are slow to load.
"""

from __future__ import annotations

from dataclasses import replace

from fedprivacy.config.schema import CellConfig, DpsgdConf, StackedConf
from fedprivacy.config.stack import completed
from fedprivacy.errors import ConfigError


def settle(config: CellConfig) -> CellConfig:
    """The configuration with its noise multiplier filled in; unchanged where it stands already.

    A null noise multiplier becomes the dataset's default, or what ``target_epsilon`` asks for (see
    ``calibration``); the parts of a stack get all their settings. Settled configurations stay as
    they are.

    Raises:
        ConfigError: both a target and another noise were given, the target cannot be met, or the
            configuration is unsound in another way.
        DataError: real files are missing.
    """
    conf = config.algorithm
    if isinstance(conf, StackedConf):
        return replace(config, algorithm=completed(conf, config.dataset))
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
        raise ConfigError(
            "algorithm.noise_multiplier",
            conf.noise_multiplier,
            f"null with algorithm.target_epsilon={conf.target_epsilon:g}, which calibrates it "
            f"(to {noise:g} here): one or the other",
            "drop algorithm.noise_multiplier, or algorithm.target_epsilon",
        )
    return replace(config, algorithm=replace(conf, noise_multiplier=noise))

"""The mechanisms by name.

A new mechanism is one file in this package, its configuration in ``fedprivacy.config.schema``, a
YAML file in ``conf/algorithm`` and an entry in ``MECHANISMS``.
"""

from __future__ import annotations

from collections.abc import Callable

from fedprivacy.config.schema import (
    AlgorithmConf,
    CentralGaussianConf,
    DpsgdConf,
    GaussianClippedConf,
    GaussianConf,
    LocalSourceConf,
    PercentileConf,
    ReleaseGaussianConf,
    StackedConf,
    SvtConf,
    SvtExactConf,
    SvtFlare28Conf,
)
from fedprivacy.config.stack import parts
from fedprivacy.errors import ConfigError
from fedprivacy.mechanisms.base import Mechanism
from fedprivacy.mechanisms.central_gaussian import CentralGaussian
from fedprivacy.mechanisms.dpsgd import DpSgd
from fedprivacy.mechanisms.gaussian import PercentileGaussian
from fedprivacy.mechanisms.gaussian_clipped import ClippedGaussian
from fedprivacy.mechanisms.local_source import LocalSource
from fedprivacy.mechanisms.none import NoMechanism
from fedprivacy.mechanisms.percentile import PercentileFilter
from fedprivacy.mechanisms.release_gaussian import ReleaseGaussian
from fedprivacy.mechanisms.stacked import Stacked
from fedprivacy.mechanisms.svt import SvtFilter
from fedprivacy.mechanisms.svt_exact import SvtExactFilter
from fedprivacy.mechanisms.svt_flare28 import SvtFlare28Filter


def _none(_conf: AlgorithmConf, _declared_records: int) -> Mechanism:
    return NoMechanism()


def _dpsgd(conf: AlgorithmConf, declared_records: int) -> Mechanism:
    assert isinstance(conf, DpsgdConf)
    return DpSgd.from_conf(conf, declared_records)


def _svt(conf: AlgorithmConf, _declared_records: int) -> Mechanism:
    assert isinstance(conf, SvtConf)
    return SvtFilter.from_conf(conf)


def _svt_flare28(conf: AlgorithmConf, _declared_records: int) -> Mechanism:
    assert isinstance(conf, SvtFlare28Conf)
    return SvtFlare28Filter.from_conf(conf)


def _svt_exact(conf: AlgorithmConf, _declared_records: int) -> Mechanism:
    assert isinstance(conf, SvtExactConf)
    return SvtExactFilter.from_conf(conf)


def _gaussian(conf: AlgorithmConf, _declared_records: int) -> Mechanism:
    assert isinstance(conf, GaussianConf)
    return PercentileGaussian.from_conf(conf)


def _gaussian_clipped(conf: AlgorithmConf, _declared_records: int) -> Mechanism:
    assert isinstance(conf, GaussianClippedConf)
    return ClippedGaussian.from_conf(conf)


def _percentile(conf: AlgorithmConf, _declared_records: int) -> Mechanism:
    assert isinstance(conf, PercentileConf)
    return PercentileFilter.from_conf(conf)


def _central_gaussian(conf: AlgorithmConf, _declared_records: int) -> Mechanism:
    assert isinstance(conf, CentralGaussianConf)
    return CentralGaussian.from_conf(conf)


def _local_source(conf: AlgorithmConf, _declared_records: int) -> Mechanism:
    assert isinstance(conf, LocalSourceConf)
    return LocalSource.from_conf(conf)


def _release_gaussian(conf: AlgorithmConf, _declared_records: int) -> Mechanism:
    assert isinstance(conf, ReleaseGaussianConf)
    return ReleaseGaussian.from_conf(conf)


def _stacked(conf: AlgorithmConf, declared_records: int) -> Mechanism:
    assert isinstance(conf, StackedConf)
    return Stacked.of([build_mechanism(part, declared_records) for part in parts(conf)])


MECHANISMS: dict[str, Callable[[AlgorithmConf, int], Mechanism]] = {
    "none": _none,
    "dpsgd": _dpsgd,
    "svt": _svt,
    "svt_flare28": _svt_flare28,
    "svt_exact": _svt_exact,
    "gaussian": _gaussian,
    "gaussian_clipped": _gaussian_clipped,
    "percentile": _percentile,
    "central_gaussian": _central_gaussian,
    "local_source": _local_source,
    "release_gaussian": _release_gaussian,
    "stacked": _stacked,
}


def build_mechanism(conf: AlgorithmConf, declared_records: int) -> Mechanism:
    """The mechanism of a configuration; a frozen value without state.

    Args:
        conf: an ``algorithm`` configuration.
        declared_records: declared public number of training records of a site, never measured.

    Raises:
        ConfigError: unknown name, or a value out of range.
    """
    if conf.name not in MECHANISMS:
        raise ConfigError(
            "algorithm", conf.name, f"one of {', '.join(MECHANISMS)}", "algorithm=none"
        )
    return MECHANISMS[conf.name](conf, declared_records)

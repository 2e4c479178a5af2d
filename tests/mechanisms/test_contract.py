"""Every mechanism keeps the contract; a new one gets its class here."""

from __future__ import annotations

import pytest
from contracts.mechanism import MechanismContract

from fedprivacy.config import schema
from fedprivacy.config.schema import AlgorithmConf
from fedprivacy.config.stack import completed
from fedprivacy.mechanisms.registry import MECHANISMS

STACK = schema.StackedConf(
    mechanisms=[
        "local_source",
        {"name": "dpsgd", "sampling_rate": 0.2},
        "gaussian_clipped",
        "central_gaussian",
        "release_gaussian",
    ]
)
DATASET = schema.DatasetConf(
    training=schema.TrainingDefaults(
        rounds=1, batch_size=8, lr=0.1, sampling_rate=0.2, noise_multiplier=1.0
    )
)


def of(conf: AlgorithmConf, every_coordinate: AlgorithmConf | None = None) -> type:
    """The contract of one configuration."""

    class OfOne(MechanismContract):
        @pytest.fixture
        def conf(self) -> AlgorithmConf:
            return conf

    OfOne.every_coordinate = every_coordinate
    return OfOne


TestNone = of(schema.NoneConf())
TestDpsgd = of(schema.DpsgdConf(sampling_rate=0.2))
TestSvt = of(schema.SvtConf(), schema.SvtConf(fraction=1.0, replace=False))
TestSvtFlare28 = of(schema.SvtFlare28Conf(), schema.SvtFlare28Conf(fraction=1.0, replace=False))
TestSvtExact = of(schema.SvtExactConf(), schema.SvtExactConf(fraction=1.0))
TestSvtExactLaplace = of(
    schema.SvtExactConf(noise="laplace"), schema.SvtExactConf(fraction=1.0, noise="laplace")
)
TestGaussian = of(schema.GaussianConf())
TestGaussianClipped = of(schema.GaussianClippedConf())
TestGaussianClippedLaplace = of(schema.GaussianClippedConf(noise="laplace"))
TestGaussianClippedAdaptive = of(schema.GaussianClippedConf(clipping="adaptive"))
TestPercentile = of(schema.PercentileConf(), schema.PercentileConf(gamma=1e-6))
TestCentralGaussian = of(schema.CentralGaussianConf())
TestCentralGaussianAdaptive = of(schema.CentralGaussianConf(clipping="adaptive"))
TestLocalSource = of(schema.LocalSourceConf())
TestReleaseGaussian = of(schema.ReleaseGaussianConf())
TestStacked = of(completed(STACK, DATASET))


def test_every_mechanism_is_here() -> None:
    tested = {name.removeprefix("Test").lower() for name in globals() if name.startswith("Test")}
    assert {name.replace("_", "") for name in MECHANISMS} <= tested

"""One check of everything that types cannot say: ranges and rules across fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from fedprivacy.accounting.units import VIEWS
from fedprivacy.config.schema import (
    BreastDensityConf,
    CellConfig,
    CentralGaussianConf,
    DatasetConf,
    DpsgdConf,
    GaussianClippedConf,
    GaussianConf,
    HiggsConf,
    IxiConf,
    LocalSourceConf,
    PercentileConf,
    ReleaseGaussianConf,
    StackedConf,
    SvtConf,
    SvtExactConf,
    SvtFlare28Conf,
)
from fedprivacy.config.stack import completed, parts
from fedprivacy.data.shapes import record_shape, task_of
from fedprivacy.device import DEVICES, resolve_device
from fedprivacy.errors import ConfigError
from fedprivacy.mechanisms.central_gaussian import check_central
from fedprivacy.mechanisms.dpsgd_ranges import check_settings
from fedprivacy.mechanisms.gaussian_clipped import check_clipped
from fedprivacy.mechanisms.local_source import check_source
from fedprivacy.mechanisms.percentile import check_percentile
from fedprivacy.mechanisms.settling import settle
from fedprivacy.mechanisms.site_clip import site_rule
from fedprivacy.mechanisms.svt_exact import check_exact
from fedprivacy.mechanisms.svt_flare28 import check_flare28
from fedprivacy.metrics import check_metric_fits
from fedprivacy.models.registry import check_model_fits
from fedprivacy.schedules import RULES, strengths

SMALLEST_NOISE = 1e-3
"""Of the noise multipliers: one release alone then costs an epsilon of two million."""

PARTITIONS = ("natural", "uniform", "linear", "square", "exponential", "dirichlet")


def validate(config: CellConfig) -> None:
    """Refuse a configuration that cannot be run as it says.

    Raises:
        ConfigError: names the key, the value, what is allowed and the fix.
    """
    for check in (
        _check_run,
        _check_federation,
        _check_schedule,
        _check_dataset,
        _check_fit,
        _check_algorithm,
        _check_noise,
        _check_privacy,
        _check_audit,
    ):
        check(config)


def one_of(key: str, value: object, allowed: Sequence[object]) -> None:
    """Refuse a value that is not among the allowed ones."""
    if value not in allowed:
        words = ", ".join(str(item) for item in allowed)
        raise ConfigError(key, value, f"one of {words}", f"{key}={allowed[0]}")


def in_range(
    key: str,
    value: float | None,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
    fix: str = "",
) -> None:
    """Refuse a number outside ``above < value``, ``least <= value <= most``, or not finite."""
    if value is None:
        return
    if math.isfinite(value) and above < value and least <= value <= most:
        return
    bounds = []
    if above > -math.inf:
        bounds.append(f"above {above:g}")
    if least > -math.inf:
        bounds.append(f"at least {least:g}")
    if most < math.inf:
        bounds.append(f"at most {most:g}")
    allowed = "a finite number " + " and ".join(bounds)
    raise ConfigError(key, value, allowed.strip(), fix or f"choose {key} {' and '.join(bounds)}")


def _check_run(config: CellConfig) -> None:
    one_of("device", config.device, DEVICES)
    resolve_device(config.device)
    one_of("engine.name", config.engine.name, ("inprocess", "stacked", "processes", "ray"))
    one_of("engine.precision", config.engine.precision, ("float32", "bf16"))
    if config.engine.precision != "float32" and config.engine.name != "stacked":
        raise ConfigError(
            "engine.precision",
            config.engine.precision,
            f"float32 with engine={config.engine.name}, which trains site by site",
            "engine=stacked or engine.precision=float32",
        )
    in_range("engine.timeout_s", config.engine.timeout_s, above=0)
    in_range("engine.workers", config.engine.workers, least=0)
    in_range("engine.torch_threads", config.engine.torch_threads, least=1)
    in_range("seed", config.seed, least=0)
    in_range("sweep.workers", config.sweep.workers, least=1)
    in_range("collapse.fraction", config.collapse.fraction, least=0, most=1)


def _check_federation(config: CellConfig) -> None:
    federation = config.federation
    one_of("federation.name", federation.name, ("fedavg", "local", "central"))
    one_of("federation.weighting", federation.weighting, ("auto", "examples", "uniform"))
    one_of("federation.optimizer", federation.optimizer, ("sgd", "adam"))
    in_range("federation.rounds", federation.rounds, least=1)
    in_range("federation.local_epochs", federation.local_epochs, above=0)
    in_range("federation.batch_size", federation.batch_size, least=1)
    in_range("federation.lr", federation.lr, above=0)
    in_range("federation.lr_decay", federation.lr_decay, above=0, most=1)
    in_range("federation.momentum", federation.momentum, least=0, most=0.9999)
    in_range("federation.evaluate_every", federation.evaluate_every, least=0)
    if federation.optimizer != "sgd" and federation.momentum:
        raise ConfigError(
            "federation.momentum",
            federation.momentum,
            f"0 with optimizer={federation.optimizer}, which has its own",
            "federation.momentum=0 or federation.optimizer=sgd",
        )


def _check_schedule(config: CellConfig) -> None:
    schedule = config.schedule
    one_of("schedule.name", schedule.name, sorted(RULES))
    in_range("schedule.n", schedule.n, least=1)
    in_range("schedule.offset", schedule.offset, least=0)
    in_range("schedule.decay", schedule.decay, above=0, most=1)
    if config.algorithm.name != "none":
        strengths(schedule, config.federation.rounds)


def _check_dataset(config: CellConfig) -> None:
    dataset = config.dataset
    one_of("dataset.source", dataset.source, ("synthetic", "real"))
    one_of("dataset.size", dataset.size, ("demo", "full"))
    one_of("dataset.partition", dataset.partition, PARTITIONS)
    in_range("dataset.n_sites", dataset.n_sites, least=1)
    in_range("dataset.dirichlet_alpha", dataset.dirichlet_alpha, above=0)
    in_range("dataset.test_fraction", dataset.test_fraction, above=0, most=0.9)
    in_range("dataset.train_share", dataset.train_share, above=0, most=1)
    in_range("dataset.max_records_per_patient", dataset.max_records_per_patient, least=1)
    in_range("dataset.declared_records", dataset.declared_records, least=1)
    if isinstance(dataset, HiggsConf):
        one_of("dataset.test_convention", dataset.test_convention, ("baldi", "nvflare", "fraction"))
        in_range("dataset.max_rows", dataset.max_rows, least=1)
    if isinstance(dataset, IxiConf):
        one_of("dataset.label_resize", dataset.label_resize, ("flamby", "nearest", "threshold"))
        if len(dataset.shape) != 3 or min(dataset.shape) < 4:
            raise ConfigError(
                "dataset.shape", dataset.shape, "three sizes of at least 4", "[24,32,24]"
            )
    if isinstance(dataset, BreastDensityConf):
        one_of("dataset.layout", dataset.layout, ("datalist", "rsna"))
        in_range("dataset.image_size", dataset.image_size, least=8, most=2048)


def _check_fit(config: CellConfig) -> None:
    """The model and the metric must suit the records."""
    shape, task = record_shape(config.dataset), task_of(config.dataset)
    check_model_fits(config.model, shape, task)
    check_metric_fits(config.dataset.metric, task)


def _check_algorithm(config: CellConfig) -> None:
    checks: dict[type, Callable[[CellConfig], None]] = {
        DpsgdConf: _check_dpsgd,
        SvtConf: _check_svt,
        SvtFlare28Conf: _check_svt_flare28,
        SvtExactConf: _check_svt_exact,
        GaussianConf: _check_gaussian,
        GaussianClippedConf: _check_gaussian_clipped,
        PercentileConf: _check_percentile,
        CentralGaussianConf: _check_central_gaussian,
        LocalSourceConf: _check_local_source,
        ReleaseGaussianConf: _check_release_gaussian,
        StackedConf: _check_stacked,
    }
    check = checks.get(type(config.algorithm))
    if check is not None:
        check(config)


def _check_dpsgd(config: CellConfig) -> None:
    assert isinstance(config.algorithm, DpsgdConf)
    check_settings(config.algorithm)
    if config.algorithm.target_epsilon is not None:
        # Fails if the noise is another one than the target asks for.
        settle(config)


def _check_svt(config: CellConfig) -> None:
    conf = config.algorithm
    assert isinstance(conf, SvtConf)
    in_range("algorithm.fraction", conf.fraction, above=0, most=1)
    in_range("algorithm.epsilon", conf.epsilon, above=0)
    in_range("algorithm.noise_var", conf.noise_var, above=0)
    in_range("algorithm.gamma", conf.gamma, above=0)
    in_range("algorithm.tau", conf.tau, least=0)


def _check_svt_flare28(config: CellConfig) -> None:
    conf = config.algorithm
    assert isinstance(conf, SvtFlare28Conf)
    _check_svt(config)
    check_flare28(conf)


def _check_svt_exact(config: CellConfig) -> None:
    conf = config.algorithm
    assert isinstance(conf, SvtExactConf)
    check_exact(conf)
    _check_target(config, conf.target_epsilon)


def _check_gaussian(config: CellConfig) -> None:
    conf = config.algorithm
    assert isinstance(conf, GaussianConf)
    in_range("algorithm.sigma0", conf.sigma0, least=0)
    in_range("algorithm.percentile", conf.percentile, least=0, most=100)


def _check_gaussian_clipped(config: CellConfig) -> None:
    conf = config.algorithm
    assert isinstance(conf, GaussianClippedConf)
    check_clipped(conf.clip, conf.noise_multiplier, conf.noise)
    if site_rule(conf) is not None:
        _needs_federation(config, "an adaptive clip norm follows all sites' updates")
    _check_target(config, conf.target_epsilon)


def _check_target(config: CellConfig, target: float | None) -> None:
    """A target of a filter is above 0, and its noise is the one that it asks for."""
    in_range("algorithm.target_epsilon", target, above=0)
    if target is not None:
        settle(config)


def _check_percentile(config: CellConfig) -> None:
    conf = config.algorithm
    assert isinstance(conf, PercentileConf)
    check_percentile(conf.percentile, conf.gamma)


def _check_central_gaussian(config: CellConfig) -> None:
    conf = config.algorithm
    assert isinstance(conf, CentralGaussianConf)
    check_central(conf)
    _needs_federation(config, "the server adds noise to the average of all sites")
    sites = known_sites(config.dataset)
    if conf.n_sites is not None and sites is not None and conf.n_sites != sites:
        raise ConfigError(
            "algorithm.n_sites",
            conf.n_sites,
            f"null or the number of sites of the federation, {sites}: noise and weights are "
            "divided by it",
            f"algorithm.n_sites={sites}, or null",
        )
    if config.federation.weighting == "examples":
        raise ConfigError(
            "federation.weighting",
            "examples",
            "auto or uniform with central_gaussian: weighting by examples lets one site move the "
            "average by more than clip / n, so its noise would prove less than it says",
            "federation.weighting=auto",
        )


def _check_local_source(config: CellConfig) -> None:
    conf = config.algorithm
    assert isinstance(conf, LocalSourceConf)
    check_source(conf)
    if config.schedule.decay != 1:
        raise ConfigError(
            "schedule.decay",
            config.schedule.decay,
            "1 with local_source, whose noise is drawn once and kept for all rounds",
            "schedule.decay=1",
        )
    if task_of(config.dataset) == "segmentation":
        raise ConfigError(
            "algorithm.name",
            conf.name,
            f"another algorithm on {config.dataset.name}: local_source randomises one label for "
            "each record, and masks have one for each voxel",
            "algorithm=dpsgd",
        )


def _check_release_gaussian(config: CellConfig) -> None:
    conf = config.algorithm
    assert isinstance(conf, ReleaseGaussianConf)
    check_clipped(conf.clip, conf.noise_multiplier, "gaussian")
    if config.federation.name == "local":
        _needs_federation(config, "one final model is published")


def _check_stacked(config: CellConfig) -> None:
    conf = config.algorithm
    assert isinstance(conf, StackedConf)
    whole = completed(conf, config.dataset)
    for part in parts(whole):
        _check_algorithm(replace(config, algorithm=part))
        _check_noise(replace(config, algorithm=part))
    # Parts that are sound by themselves may still not go together.
    from fedprivacy.mechanisms.registry import build_mechanism

    build_mechanism(whole, config.dataset.declared_records)


def known_sites(dataset: DatasetConf) -> int | None:
    """Number of sites, where the configuration says it; natural partitions are in the files."""
    return None if dataset.partition == "natural" else dataset.n_sites


def _needs_federation(config: CellConfig, because: str) -> None:
    if config.federation.name != "fedavg":
        raise ConfigError(
            "federation.name",
            config.federation.name,
            f"fedavg with algorithm={config.algorithm.name}: {because}",
            "federation=fedavg",
        )


def _check_noise(config: CellConfig) -> None:
    """Noise so small that no accountant can price it is refused before anything is sent."""
    noise = getattr(config.algorithm, "noise_multiplier", None)
    if not noise or config.algorithm.name == "none":
        return
    decayed = not isinstance(config.algorithm, LocalSourceConf)
    planned = strengths(config.schedule, config.federation.rounds) if decayed else (1.0,)
    least = min(strength for strength in planned if strength is not None)
    if noise * least >= SMALLEST_NOISE:
        return
    if noise >= SMALLEST_NOISE:
        raise ConfigError(
            "schedule.decay",
            config.schedule.decay,
            f"a decay that leaves a noise multiplier of at least {SMALLEST_NOISE:g} in every "
            f"protected round; of {noise:g}, the last one has {noise * least:.3g}, which no "
            "accountant can price",
            "raise schedule.decay, or lower federation.rounds",
        )
    raise ConfigError(
        "algorithm.noise_multiplier",
        noise,
        f"0, or at least {SMALLEST_NOISE:g}: below, no accountant can price it",
        f"algorithm.noise_multiplier={SMALLEST_NOISE:g}, or 0 for no noise and no proof",
    )


def _check_privacy(config: CellConfig) -> None:
    privacy = config.privacy
    one_of("privacy.view", privacy.view, VIEWS)
    one_of("privacy.randomness", privacy.randomness, ("secret", "seeded"))
    one_of("privacy.unit", privacy.unit, ("auto", "record", "patient", "site"))
    in_range("privacy.delta", privacy.delta, above=0, most=1e-5, fix="leave privacy.delta null")


def _check_audit(config: CellConfig) -> None:
    audit = config.audit
    one_of("audit.name", audit.name, ("none", "fast", "full"))
    one_of("audit.kind", audit.kind, ("natural", "random_label"))
    one_of("audit.sites", audit.sites, ("all", "first"))
    in_range("audit.canaries", audit.canaries, least=1)
    in_range("audit.seed", audit.seed, least=0)
    in_range("audit.confidence", audit.confidence, least=0.5, most=0.9999)
    in_range("audit.victims", audit.victims, least=1)
    in_range("audit.attack_steps", audit.attack_steps, least=1)
    if not audit.guesses:
        allowed = "at least one share of the canaries"
        raise ConfigError("audit.guesses", audit.guesses, allowed, "audit.guesses=[0.1]")
    for share in audit.guesses:
        in_range("audit.guesses", share, above=0, most=1)

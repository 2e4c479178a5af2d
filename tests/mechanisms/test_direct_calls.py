"""Filters called by themselves, without a mechanism around them: each fails closed on its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedprivacy.config.schema import (
    GaussianConf,
    LocalSourceConf,
    PercentileConf,
    SvtConf,
    SvtExactConf,
    SvtFlare28Conf,
)
from fedprivacy.errors import ConfigError, FedPrivacyError, ProtectionError
from fedprivacy.mechanisms.adaptive_clip import moved_clip
from fedprivacy.mechanisms.base import Mechanism
from fedprivacy.mechanisms.central_gaussian import CentralGaussian
from fedprivacy.mechanisms.dpsgd import DpSgd
from fedprivacy.mechanisms.gaussian import PercentileGaussian, gaussian_filter, percentile_sigma
from fedprivacy.mechanisms.gaussian_clipped import (
    ClippedGaussian,
    add_noise,
    clip_norm,
    noise_event,
)
from fedprivacy.mechanisms.local_source import (
    LocalSource,
    clip_features,
    diameter,
    randomised_response,
    response_epsilon,
)
from fedprivacy.mechanisms.none import NoMechanism
from fedprivacy.mechanisms.percentile import PercentileFilter, percentile_filter
from fedprivacy.mechanisms.release_gaussian import ReleaseGaussian
from fedprivacy.mechanisms.selection import SvtScales, select_above_threshold, select_top
from fedprivacy.mechanisms.server import SERVER_SITE
from fedprivacy.mechanisms.site_clip import SiteClipRule
from fedprivacy.mechanisms.stacked import Stacked
from fedprivacy.mechanisms.svt import SvtFilter, svt_filter
from fedprivacy.mechanisms.svt_exact import SvtExactFilter, exact_filter
from fedprivacy.mechanisms.svt_flare28 import SvtFlare28Filter, flare28_filter
from fedprivacy.training.randomness import Streams
from fedprivacy.training.task import Trained

Floats = NDArray[np.float64]
NAN, INF = math.nan, math.inf
SERVER = Streams(7, "seeded", 1, SERVER_SITE)
SCALES = SvtScales(count=1, threshold=1.0, query=1.0, release=1.0, epsilon_selection=1.0)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


OF_AN_UPDATE: dict[str, Callable[[Floats], object]] = {
    "gaussian": lambda u: gaussian_filter(u, 0.1, 95.0, rng()),
    "gaussian without noise": lambda u: gaussian_filter(u, 0.0, 95.0, rng()),
    "scale of gaussian": lambda u: percentile_sigma(u, 0.1, 95.0),
    "percentile": lambda u: percentile_filter(u, 10.0, 0.01, 1),
    "svt": lambda u: svt_filter(u, SvtConf(), 1, 1e-6, rng()),
    "svt_flare28": lambda u: flare28_filter(u, SvtFlare28Conf(), 1, 1e-6, rng()),
    "svt_exact": lambda u: exact_filter(u, SvtExactConf(), 1.0, rng()),
    "svt_exact, uniform": lambda u: exact_filter(u, SvtExactConf(selection_share=0.0), 1.0, rng()),
    "svt_exact, no noise": lambda u: exact_filter(u, SvtExactConf(noise_multiplier=0), 1.0, rng()),
    "clip, L2": lambda u: clip_norm(u, 1.0, "gaussian"),
    "clip, L1": lambda u: clip_norm(u, 1.0, "laplace"),
    "noise": lambda u: add_noise(u, 1.0, "gaussian", rng()),
    "no noise": lambda u: add_noise(u, 0.0, "laplace", rng()),
    "threshold": lambda u: select_above_threshold(u, 0.1, SCALES, False, rng()),
    "maxima": lambda u: select_top(u, 1, 1.0, rng()),
    "maxima without noise": lambda u: select_top(u, 1, 0.0, rng()),
}
BAD_UPDATES = {
    "nan": np.array([1.0, NAN, 2.0]),
    "inf": np.array([1.0, 2.0, INF]),
    "-inf": np.array([-INF, 1.0, 2.0]),
    "0-d": np.array(1.0),
    "2-d": np.ones((3, 3)),
    "empty": np.zeros(0),
    "integers": np.array([1, 2, 3]),
    "booleans": np.array([True, False, True]),
    "float32": np.ones(3, dtype=np.float32),
    "a list": [1.0, 2.0, 3.0],
    "a tensor": torch.ones(3, dtype=torch.float64),
}


@pytest.mark.parametrize("bad", BAD_UPDATES)
@pytest.mark.parametrize("name", OF_AN_UPDATE)
def test_no_filter_takes_an_unsound_update(name: str, bad: str) -> None:
    start = time.perf_counter()
    with pytest.raises(ProtectionError, match="nothing was sent"):
        OF_AN_UPDATE[name](BAD_UPDATES[bad])
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("name", OF_AN_UPDATE)
def test_all_filters_take_a_sound_update(name: str) -> None:
    given = np.linspace(0.01, 1.0, 30)
    kept = given.copy()
    OF_AN_UPDATE[name](given)
    assert np.array_equal(given, kept)


ONES, LABELS = np.ones(5), np.array([0, 1, 1, 0])
RECORDS = torch.ones(4, 3)


def source(**changes: object) -> LocalSource:
    settings = {"noise_multiplier": 1.0, "bounds": (-1.0, 1.0), "radius": None, "label_keep": 0.9}
    return LocalSource(**(settings | changes))


def averaged(*updates: torch.Tensor, strength: float = 1.0, clip: float = 1.0) -> object:
    return CentralGaussian(1.0, 1.0).average(updates, strength, clip, SERVER)


def published(weights: torch.Tensor, reference: torch.Tensor, strength: float = 1.0) -> object:
    return ReleaseGaussian(1.0, 1.0).publish(weights, reference, strength, SERVER)


UNSOUND: dict[str, Callable[[], object]] = {
    **{
        f"{name}: steps={steps}": lambda call=call, steps=steps: call(steps)
        for name, call in {
            "percentile": lambda k: percentile_filter(ONES, 10.0, 0.01, k),
            "svt": lambda k: svt_filter(ONES, SvtConf(), k, 1e-6, rng()),
            "svt_flare28": lambda k: flare28_filter(ONES, SvtFlare28Conf(), k, 1e-6, rng()),
        }.items()
        for steps in (NAN, INF, -INF, 0, -3, 2.5)
    },
    **{
        f"{name}: strength={strength}": lambda call=call, strength=strength: call(strength)
        for name, call in {
            "svt_exact": lambda s: exact_filter(ONES, SvtExactConf(), s, rng()),
            "central": lambda s: averaged(torch.ones(3), strength=s),
            "release": lambda s: published(torch.ones(3), torch.zeros(3), s),
        }.items()
        for strength in (NAN, INF, -1.0)
    },
    **{
        f"{name}: clip={clip}": lambda call=call, clip=clip: call(clip)
        for name, call in {
            "clip_norm": lambda c: clip_norm(ONES, c, "gaussian"),
            "central": lambda c: averaged(torch.ones(3), clip=c),
            "filter": lambda c: ClippedGaussian(c, 1.0),
            "release": lambda c: ReleaseGaussian(c, 1.0),
            "moved": lambda c: moved_clip(c, 0.2, 0.1),
        }.items()
        for clip in (NAN, INF, 0.0, -1.0)
    },
    **{
        f"{name}: z={z}": lambda call=call, z=z: call(z)
        for name, call in {
            "event": lambda z: noise_event(z, "gaussian"),
            "Laplace event": lambda z: noise_event(z, "laplace"),
            "filter": lambda z: ClippedGaussian(1.0, z),
            "central": lambda z: CentralGaussian(1.0, z),
            "release": lambda z: ReleaseGaussian(1.0, z),
            "source": lambda z: source(noise_multiplier=z),
            "gaussian": lambda z: PercentileGaussian(z, 95.0),
            "svt_exact": lambda z: SvtExactFilter(SvtExactConf(noise_multiplier=z)),
            "scale": lambda z: add_noise(ONES, z, "gaussian", rng()),
            "Gumbel scale": lambda z: select_top(ONES, 1, z, rng()),
        }.items()
        for z in (NAN, INF, -1.0)
    },
    "gaussian: percentile": lambda: PercentileGaussian(0.1, NAN),
    "percentile: percentile": lambda: PercentileFilter(NAN, 0.1),
    "percentile: gamma": lambda: PercentileFilter(10.0, INF),
    "svt: gamma": lambda: SvtFilter(SvtConf(gamma=NAN)),
    "svt_flare28: epsilon": lambda: SvtFlare28Filter(SvtFlare28Conf(epsilon=NAN)),
    "svt: tau": lambda: svt_filter(ONES, SvtConf(), 1, INF, rng()),
    "svt_flare28: tau": lambda: flare28_filter(ONES, SvtFlare28Conf(), 1, NAN, rng()),
    "clip_norm: noise": lambda: clip_norm(ONES, 1.0, "uniform"),
    "add_noise: noise": lambda: add_noise(ONES, 1.0, "uniform", rng()),
    "event: noise": lambda: noise_event(1.0, "uniform"),
    "filter: noise": lambda: ClippedGaussian(1.0, 1.0, "uniform"),
    "filter: adaptive Laplace": lambda: ClippedGaussian(1.0, 1.0, "laplace", SiteClipRule()),
    "filter: indicator": lambda: ClippedGaussian(1.0, 9.0, "gaussian", SiteClipRule()),
    "threshold: tau": lambda: select_above_threshold(ONES, NAN, SCALES, False, rng()),
    "threshold: c": lambda: select_above_threshold(ONES[:0], 0.1, SCALES, False, rng()),
    "threshold: scale": lambda: select_above_threshold(
        ONES, 0.1, SvtScales(1, 1.0, NAN, 1.0, 1.0), False, rng()
    ),
    "maxima: none": lambda: select_top(ONES, 0, 1.0, rng()),
    "maxima: too many": lambda: select_top(ONES, 6, 1.0, rng()),
    "rule: no indicator": lambda: SiteClipRule().next_clip(1.0, []),
    "rule: indicator nan": lambda: SiteClipRule().next_clip(1.0, [0.5, NAN]),
    "rule: indicator inf": lambda: SiteClipRule().next_clip(1.0, [INF]),
    "rule: norm": lambda: SiteClipRule().indicator(NAN, 1.0, rng()),
    "rule: noise inf": lambda: SiteClipRule(indicator_noise=INF),
    "rule: noise 0": lambda: SiteClipRule(indicator_noise=0.0),
    "rule: quantile": lambda: SiteClipRule(quantile=NAN),
    "rule: rate": lambda: SiteClipRule(rate=INF),
    "moved: excess": lambda: moved_clip(1.0, 0.2, NAN),
    "central: nobody": lambda: averaged(),
    "central: nan": lambda: averaged(torch.ones(3), torch.tensor([1.0, NAN, 1.0])),
    "central: sizes": lambda: averaged(torch.ones(3), torch.ones(1)),
    "central: integers": lambda: averaged(torch.ones(3, dtype=torch.int64)),
    "central: overflow": lambda: averaged(torch.ones(3), strength=1e200, clip=1e200),
    "release: sizes": lambda: published(torch.ones(3), torch.zeros(1)),
    "release: other sizes": lambda: published(torch.ones(1), torch.zeros(3)),
    "release: nan": lambda: published(torch.ones(3), torch.full((3,), NAN)),
    "stack: of nothing": lambda: Stacked(()),
    "stack: of one": lambda: Stacked((ClippedGaussian(1.0, 1.0),)),
    "stack: of none": lambda: Stacked((ClippedGaussian(1.0, 1.0), NoMechanism())),
    "source: bounds": lambda: source(bounds=(-1.0, NAN)),
    "source: radius": lambda: source(radius=NAN),
    "source: keep": lambda: source(label_keep=NAN),
    "features: nan": lambda: clip_features(np.full((2, 2), NAN), (-1, 1), None),
    "features: flat": lambda: clip_features(np.ones(3), (-1, 1), 1.0),
    "features: bounds": lambda: clip_features(np.ones((2, 2)), (1, -1), None),
    "features: radius": lambda: clip_features(np.ones((2, 2)), (-1, 1), NAN),
    "diameter: radius": lambda: diameter(3, (-1, 1), NAN),
    "response: keep nan": lambda: randomised_response(LABELS, NAN, 2, rng()),
    "response: keep 2": lambda: randomised_response(LABELS, 2.0, 2, rng()),
    "response: one class": lambda: randomised_response(LABELS * 0, 0.9, 1, rng()),
    "response: above the classes": lambda: randomised_response(LABELS + 1, 0.9, 2, rng()),
    "response: below the classes": lambda: randomised_response(LABELS - 1, 0.9, 2, rng()),
    "response: no whole labels": lambda: randomised_response(LABELS * 0.5, 0.9, 2, rng()),
    "response: price": lambda: response_epsilon(NAN, 2),
    "records: label": lambda: source().records(RECORDS, torch.full((4,), 2), 2, rng()),
    "records: no whole label": lambda: source().records(RECORDS, torch.full((4,), 0.7), 2, rng()),
    "records: lengths": lambda: source().records(RECORDS, torch.zeros(3).long(), 2, rng()),
    "records: none": lambda: source().records(RECORDS[:0], torch.zeros(0).long(), 2, rng()),
    "records: integers": lambda: source().records(RECORDS.long(), torch.zeros(4).long(), 2, rng()),
    "records: infinite": lambda: source().records(RECORDS * INF, torch.zeros(4).long(), 2, rng()),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_no_function_takes_unsound_parameters(name: str) -> None:
    start = time.perf_counter()
    with pytest.raises(FedPrivacyError, match=r"not allowed|allowed |nothing was|a feature is"):
        UNSOUND[name]()
    assert time.perf_counter() - start < 1


def test_sound_calls_beside_them_pass() -> None:
    averaged(torch.ones(3), torch.zeros(3))
    published(torch.ones(3), torch.zeros(3))
    source().records(RECORDS, torch.zeros(4).long(), 2, rng())
    randomised_response(LABELS, 0.9, 2, rng())
    SiteClipRule().next_clip(1.0, [0.5, -0.5])
    noise_event(1.0, "laplace")


@pytest.mark.parametrize("strength", [NAN, INF, -1.0])
@pytest.mark.parametrize(
    "mechanism",
    [
        ClippedGaussian(1.0, 1.0),
        SvtExactFilter(SvtExactConf()),
        PercentileGaussian.from_conf(GaussianConf()),
        PercentileFilter.from_conf(PercentileConf()),
        DpSgd(1.0, 1.0, 0.2, 8.0),
    ],
    ids=lambda mechanism: mechanism.name,
)
def test_no_mechanism_takes_a_strength_that_no_schedule_gives(
    make_task, mechanism: Mechanism, strength: float
) -> None:
    task, update = make_task(strength=strength), torch.ones(43)
    trained = Trained(1, 0.0)
    acts = mechanism.train if mechanism.placement == "training" else mechanism.protect
    given = (task,) if mechanism.placement == "training" else (update, task, trained)
    with pytest.raises((ProtectionError, ConfigError)):
        acts(*given)


@pytest.mark.parametrize("clip", [NAN, INF, 0.0, -1.0])
def test_no_site_clips_to_what_is_no_clip_norm(make_task, clip: float) -> None:
    task = replace(make_task(), clip=clip)
    adaptive = ClippedGaussian(1.0, 1.0, "gaussian", SiteClipRule())
    with pytest.raises(ProtectionError, match="the clip norm of the round"):
        adaptive.protect(torch.ones(5), task, Trained(1, 0.0))


# ------------------------------------------------------------------- scales from the update


@pytest.mark.parametrize(
    "values", [[0.0] * 4, [5e-324, 0.0, 0.0, 0.0], [1e-44, -1e-44, 0.0, 0.0]], ids=str
)
def test_an_update_with_nothing_to_scale_the_noise_by_is_refused(values: list[float]) -> None:
    with pytest.raises(ProtectionError, match=r"[Nn]othing was sent"):
        gaussian_filter(np.array(values), 0.1, 95.0, rng())


def test_a_percentile_of_almost_nothing_is_refused(make_task) -> None:
    # At percentile 0 one denormal value would set the noise of all others to nothing.
    update = torch.ones(9)
    update[0] = 1e-45
    with pytest.raises(ProtectionError, match="lost in float32"):
        PercentileGaussian(0.1, 0.0).protect(update, make_task(), Trained(1, 0.0))
    PercentileGaussian(0.1, 50.0).protect(update, make_task(), Trained(1, 0.0))


ZERO = np.zeros(400)
PUBLIC_SCALE: dict[str, Callable[[], Floats]] = {
    "svt": lambda: svt_filter(ZERO, SvtConf(fraction=1.0, replace=False), 1, 1e-6, rng()),
    "svt_flare28": lambda: flare28_filter(
        ZERO, SvtFlare28Conf(fraction=1.0, replace=False), 1, 1e-6, rng()
    ),
    "svt_exact": lambda: exact_filter(ZERO, SvtExactConf(fraction=1.0), 1.0, rng()),
    "gaussian_clipped": lambda: add_noise(clip_norm(ZERO, 1.0, "gaussian"), 1.0, "laplace", rng()),
    "central_gaussian": lambda: averaged(torch.zeros(400)).mean.numpy(),
    "release_gaussian": lambda: published(torch.zeros(400), torch.zeros(400)).numpy(),
    "local_source": lambda: (
        source().records(torch.zeros(4, 100), torch.zeros(4).long(), 2, rng())[0].numpy().ravel()
    ),
}


@pytest.mark.parametrize("name", PUBLIC_SCALE)
def test_where_the_scale_is_public_all_zeros_get_noise(name: str) -> None:
    assert np.count_nonzero(PUBLIC_SCALE[name]()) == 400


def test_local_source_from_a_configuration_refuses_three_bounds() -> None:
    with pytest.raises(ConfigError, match=r"algorithm\.bounds"):
        LocalSource.from_conf(LocalSourceConf(bounds=[-1.0, 0.0, 1.0]))

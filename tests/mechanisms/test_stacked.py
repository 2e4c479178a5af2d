"""Stacks: parts act in their place, statements stay apart, no part knows another's noise."""

from __future__ import annotations

from dataclasses import replace

import dp_accounting
import pytest
import torch

from fedprivacy.config.schema import (
    CentralGaussianConf,
    DpsgdConf,
    GaussianClippedConf,
    GaussianConf,
    LocalSourceConf,
    NoneConf,
    ReleaseGaussianConf,
    SvtExactConf,
)
from fedprivacy.errors import ConfigError
from fedprivacy.mechanisms.registry import build_mechanism
from fedprivacy.mechanisms.server import ServerSide, source_of
from fedprivacy.mechanisms.stacked import Stacked
from fedprivacy.training.plain import train_plain

DPSGD = DpsgdConf(sampling_rate=0.2, noise_multiplier=2.0)
ADAPTIVE = GaussianClippedConf(clipping="adaptive")


def stack(*confs: object) -> Stacked:
    return Stacked.of([build_mechanism(conf, 40) for conf in confs])


def kinds(release) -> dict[tuple[str, str, str], dp_accounting.DpEvent]:
    return {(s.unit, s.neighbouring, s.view): s.dp_event for s in release.statements}


def test_each_unit_keeps_the_bound_of_its_own_mechanism(make_task) -> None:
    both = stack(DPSGD, GaussianClippedConf(noise_multiplier=3.0))
    task = make_task()
    trained = both.train(task)
    alone = build_mechanism(DPSGD, 40).release(task, trained)
    assert kinds(both.release(task, trained)) == {
        ("record", "zero_out", "server_updates"): alone.dp_event,
        ("site", "replace_one", "server_updates"): dp_accounting.GaussianDpEvent(3.0),
    }


def test_what_comes_after_a_proved_mechanism_is_post_processing(make_task) -> None:
    task = make_task()
    filters = stack(GaussianClippedConf(noise_multiplier=5.0), SvtExactConf(noise_multiplier=1.0))
    release = filters.release(task, train_plain(task))
    assert kinds(release) == {
        ("site", "replace_one", "server_updates"): dp_accounting.GaussianDpEvent(5.0)
    }
    assert release.details["mechanism"] == "gaussian_clipped"


def test_a_mechanism_that_proves_nothing_does_not_hide_one_that_does(make_task) -> None:
    task = make_task()
    filters = stack(GaussianConf(), GaussianClippedConf(noise_multiplier=2.0))
    said = filters.release(task, train_plain(task))
    assert said.dp_event == dp_accounting.GaussianDpEvent(2.0)
    assert said.reason == ""
    hopeless = stack(GaussianConf(), GaussianClippedConf(noise_multiplier=0.0))
    said = hopeless.release(task, train_plain(task))
    assert said.dp_event == dp_accounting.NonPrivateDpEvent()
    assert "gaussian:" in said.reason
    assert "gaussian_clipped:" in said.reason


@pytest.mark.parametrize(
    "confs",
    [
        (DPSGD, GaussianClippedConf()),
        (LocalSourceConf(), DPSGD, CentralGaussianConf()),
        (DPSGD, ReleaseGaussianConf()),
    ],
)
def test_kinds_are_the_same_in_every_round(make_task, confs) -> None:
    both = stack(*confs)
    found = []
    for strength in (1.0, None):
        for last in (False, True):
            task = replace(make_task(strength=strength), last_round=last)
            found.append(list(kinds(both.release(task, train_plain(make_task())))))
    assert found[1:] == found[:-1]


def test_the_update_goes_through_every_filter_in_the_order_given(make_task) -> None:
    task = make_task()
    trained = train_plain(task)
    update = torch.linspace(-1, 1, task.parameters.size)
    first = stack(GaussianClippedConf(clip=1.0, noise_multiplier=0.0), SvtExactConf(fraction=0.1))
    done = first.protect(update, task, trained).update
    assert int((done != 0).sum()) == 5
    other = stack(SvtExactConf(fraction=0.1), GaussianClippedConf(clip=1.0, noise_multiplier=1.0))
    assert int((other.protect(update, task, trained).update != 0).sum()) == len(update)


def test_two_filters_never_draw_the_same_noise(make_task) -> None:
    task = make_task()
    zero, trained = torch.zeros(task.parameters.size), train_plain(task)
    conf = GaussianClippedConf(clip=1.0, noise_multiplier=1.0)
    one = build_mechanism(conf, 1).protect(zero, task, trained).update
    both = stack(conf, GaussianClippedConf(clip=1e9, noise_multiplier=1e-9))
    twice = both.protect(zero, task, trained).update
    assert not torch.allclose(one, twice, atol=0.1)
    again = both.protect(zero, make_task(), trained).update
    assert torch.equal(twice, again)


def test_the_servers_clip_norm_is_not_the_filters(make_task) -> None:
    both = stack(GaussianClippedConf(clip=0.5, noise_multiplier=1e-9), CentralGaussianConf(clip=3))
    # The server sends its own clip norm along with the weights.
    task = replace(make_task(), clip=3.0)
    trained = train_plain(make_task())
    done = both.protect(torch.full((100,), 5.0), task, trained).update
    assert float(done.norm()) == pytest.approx(0.5, rel=1e-5)
    said = [s.details for s in both.release(task, trained).statements if not s.reason]
    clips = {str(details["mechanism"]): details["C"] for details in said}
    assert clips == {"gaussian_clipped": 0.5, "central_gaussian": 3.0}


def test_an_adaptive_filter_beside_fixed_ones_is_the_one_that_moves() -> None:
    server = ServerSide.of(stack(GaussianClippedConf(clip=9.0), ADAPTIVE))
    assert server.filter is not None
    assert server.first_clip == 1.0


def test_parts_are_found_where_they_act() -> None:
    whole = stack(CentralGaussianConf(clip=3.0), LocalSourceConf(), DPSGD, ReleaseGaussianConf())
    assert [part.name for part in whole.parts] == [
        "local_source",
        "dpsgd",
        "central_gaussian",
        "release_gaussian",
    ]
    server = ServerSide.of(whole)
    assert server.first_clip == 3.0
    assert server.release is not None
    assert source_of(whole) is whole.parts[0]
    assert source_of(build_mechanism(DPSGD, 40)) is None


@pytest.mark.parametrize(
    ("confs", "words"),
    [
        ((DPSGD,), "at least two"),
        ((DPSGD, DPSGD), "at most one"),
        ((DPSGD, NoneConf()), "protect something"),
        ((CentralGaussianConf(), CentralGaussianConf()), "at most one"),
        ((ADAPTIVE, CentralGaussianConf()), "whose clip norm the server keeps"),
        ((ADAPTIVE, ADAPTIVE), "whose clip norm the server keeps"),
    ],
)
def test_stacks_that_are_none_are_refused(confs, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        stack(*confs)

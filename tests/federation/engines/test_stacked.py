"""The stacked engine: the results of one by one, its guards, and what it leaves to one by one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_images import IMAGES
from tape import Tape
from waiting import NoWaiting, synchronisation_refused

from fedprivacy.config.schema import CellConfig
from fedprivacy.config.serialization import dumps
from fedprivacy.errors import ClientFailure
from fedprivacy.federation import device_records, stacked_round
from fedprivacy.federation.run import FederationOutcome, run_federation
from fedprivacy.federation.site import CellRuntime, close_runtime, open_runtime
from fedprivacy.mechanisms import dpsgd_stacked
from fedprivacy.mechanisms.dpsgd import DpSgd
from fedprivacy.mechanisms.grad_engines import certificate, choose, stacked
from fedprivacy.mechanisms.grad_engines import recorded as grad_recorded
from fedprivacy.training.stacked import plain, plan
from fedprivacy.training.stacked import recorded as stacked_recorded

Tiny = Callable[..., CellConfig]
TOLERANCE = 1e-5
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
UNEQUAL = ("dataset.partition=linear", "dataset.n_sites=4")
LOW = "federation.lr=0.001"  # Adam blows up rounding in gradients near zero
CELLS = {
    "none": ("algorithm=none", *UNEQUAL),
    "none, momentum": ("algorithm=none", "federation.momentum=0.9", *UNEQUAL),
    "none, adam": ("algorithm=none", "federation.optimizer=adam", "federation.momentum=0", LOW),
    "none, local": ("algorithm=none", "federation=local"),
    "none, images": ("algorithm=none", *IMAGES),
    "dpsgd": ("algorithm=dpsgd", *UNEQUAL),
    "dpsgd, per layer": ("algorithm=dpsgd", "algorithm.clipping=per_layer"),
    "dpsgd, automatic": ("algorithm=dpsgd", "algorithm.clipping=automatic"),
    "dpsgd, images": ("algorithm=dpsgd", *IMAGES),
    "dpsgd, first round": ("algorithm=dpsgd", "schedule=first_round", *UNEQUAL),
    "dpsgd, decaying": ("algorithm=dpsgd", "schedule.decay=0.8", "algorithm.ema=0.5"),
    "svt": ("algorithm=svt",),
    "adaptive site clip": ("algorithm=gaussian_clipped", "algorithm.clipping=adaptive"),
    "stack of mechanisms": ("algorithm=stacked", "algorithm.mechanisms=[dpsgd,gaussian_clipped]"),
}
ONE_BY_ONE = {
    "moves each site's own clip norm": ("algorithm=dpsgd", "algorithm.clipping=adaptive"),
    "makes views site by site": ("algorithm=dpsgd", "algorithm.augmentations=2"),
    "means loop for this model": ("algorithm=dpsgd", "algorithm.grad_engine=loop"),
    "draws noise on each site's own records": ("algorithm=local_source",),
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(certificate, "_certified", set())
    device_records._stacks.clear()
    yield
    device_records._stacks.clear()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Partitions that were trained one by one, in the order in which they were."""
    found: list[int] = []
    honest = CellRuntime.task

    def noted(runtime: CellRuntime, partition: int, *more: Any, **named: Any) -> Any:
        found.append(partition)
        return honest(runtime, partition, *more, **named)

    monkeypatch.setattr(CellRuntime, "task", noted)
    return found


def largest_gap(a: FederationOutcome, b: FederationOutcome) -> float:
    assert a.weights.keys() == b.weights.keys()
    return max(float((a.weights[k] - b.weights[k]).abs().max()) for k in a.weights)


# ------------------------------------------------------------------ equal to one by one


@pytest.mark.parametrize("name", CELLS)
def test_a_run_ends_where_it_ends_one_by_one(tiny: Tiny, alone: list[int], name: str) -> None:
    expected = run_federation(tiny(*CELLS[name]))
    assert alone
    alone.clear()
    found = run_federation(tiny(*CELLS[name], "engine=stacked"))
    assert alone == []
    assert largest_gap(found, expected) <= TOLERANCE
    assert found.events == expected.events
    for ours, theirs in zip(found.history, expected.history, strict=True):
        assert ours.steps == theirs.steps
        assert ours.noise_norm == pytest.approx(theirs.noise_norm)
        assert ours.update_norm == pytest.approx(theirs.update_norm, rel=1e-3, abs=1e-5)


def test_the_same_seed_twice_gives_the_same_bits(tiny: Tiny) -> None:
    config = tiny("algorithm=dpsgd", "engine=stacked")
    first = run_federation(config)
    close_runtime()
    device_records._stacks.clear()
    assert torch.equal(run_federation(config).weights["vector"], first.weights["vector"])


def test_secret_noise_differs_between_runs(tiny: Tiny) -> None:
    config = tiny("algorithm=dpsgd", "engine=stacked", "privacy=default")
    first, again = (run_federation(config).weights["vector"] for _ in range(2))
    assert float((first - again).abs().max()) > 1e-3


def test_bf16_is_near_and_its_events_are_the_same(tiny: Tiny) -> None:
    for algorithm in ("none", "dpsgd"):
        words = (f"algorithm={algorithm}", "engine=stacked")
        exact = run_federation(tiny(*words))
        coarse = run_federation(tiny(*words, "engine.precision=bf16"))
        assert coarse.events == exact.events
        assert TOLERANCE < largest_gap(coarse, exact) < 0.1


# ------------------------------------------------------------------ recorded, as on a GPU


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> Tape:
    """Everything that is recorded on a GPU is recorded here, on a tape."""
    tape = Tape()
    for module in (plan, plain, dpsgd_stacked, choose):
        monkeypatch.setattr(module, "is_recorded", lambda _device: True)
    for module in (stacked_recorded, grad_recorded):
        monkeypatch.setattr(module, "cuda_graph", tape)
    return tape


@pytest.mark.parametrize("name", CELLS)
def test_a_run_of_recorded_steps_ends_where_it_ends_one_by_one(
    tiny: Tiny, tape: Tape, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(stacked_recorded, "WORTH", 1)
    found = run_federation(tiny(*CELLS[name], "engine=stacked"))
    assert 0 < tape.recorded <= tape.replayed
    with pytest.MonkeyPatch().context() as patch:
        for module in (plan, plain, dpsgd_stacked, choose):
            patch.setattr(module, "is_recorded", lambda _device: False)
        expected = run_federation(tiny(*CELLS[name]))
    assert largest_gap(found, expected) <= TOLERANCE
    assert found.events == expected.events
    for ours, theirs in zip(found.history, expected.history, strict=True):
        assert ours.steps == theirs.steps
        assert ours.noise_norm == pytest.approx(theirs.noise_norm)


@pytest.mark.parametrize("name", ["dpsgd", "dpsgd, images"])
def test_sites_by_themselves_train_on_recorded_sums(tiny: Tiny, tape: Tape, name: str) -> None:
    found = run_federation(tiny(*CELLS[name]))
    assert 0 < tape.recorded < tape.replayed
    with pytest.MonkeyPatch().context() as patch:
        patch.setattr(choose, "is_recorded", lambda _device: False)
        expected = run_federation(tiny(*CELLS[name]))
    assert largest_gap(found, expected) <= TOLERANCE
    assert found.events == expected.events


def test_a_record_of_steps_serves_all_rounds_and_is_made_where_it_pays(
    tiny: Tiny, tape: Tape
) -> None:
    """A round has one step of a width."""
    recorded = []
    for rounds in (stacked_recorded.WORTH - 1, stacked_recorded.WORTH, 3 * stacked_recorded.WORTH):
        close_runtime()
        before = tape.recorded
        words = (f"federation.rounds={rounds}", "federation.batch_size=1000")
        run_federation(tiny("algorithm=none", "engine=stacked", *words))
        recorded.append(tape.recorded - before)
    assert recorded == [0, 1, 1]


def test_steps_that_cannot_be_recorded_are_taken_as_ever(
    tiny: Tiny, tape: Tape, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_work: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(stacked_recorded, "cuda_graph", refuse)
    monkeypatch.setattr(stacked_recorded, "WORTH", 1)
    with caplog.at_level(logging.WARNING, logger="fedprivacy"):
        found = run_federation(tiny("algorithm=none", *UNEQUAL, "engine=stacked"))
    assert "not recorded (operation not permitted when stream is capturing)" in caplog.text
    monkeypatch.undo()
    expected = run_federation(tiny("algorithm=none", *UNEQUAL))
    assert largest_gap(found, expected) <= TOLERANCE


# ------------------------------------------------------------------ what is left to one by one


@pytest.mark.parametrize("reason", ONE_BY_ONE)
def test_what_cannot_be_stacked_trains_one_by_one_and_says_why_once(
    tiny: Tiny, alone: list[int], caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    overrides = ONE_BY_ONE[reason]
    expected = run_federation(tiny(*overrides))
    alone.clear()
    with caplog.at_level(logging.WARNING, logger="fedprivacy"):
        found = run_federation(tiny(*overrides, "engine=stacked"))
    assert torch.equal(found.weights["vector"], expected.weights["vector"])
    assert found.events == expected.events
    assert len(alone) == 3 * len(found.history)
    said = [record.getMessage() for record in caplog.records if "one by one" in record.message]
    assert len(said) == 1
    assert reason in said[0]


def test_training_that_is_ready_for_other_weights_is_not_used(tiny: Tiny, alone: list[int]) -> None:
    runtime = CellRuntime(tiny("engine=stacked"))
    start = runtime.initial_weights
    told = [stacked_round.Instruction(partition, 1, start, None) for partition in (0, 1)]
    runtime.ready.fill(dict(stacked_round._trained(runtime, told)))
    runtime.train(0, 1, start + 1)
    assert alone == [0]
    for number, clip, left in ((2, None, [0, 0]), (1, 3.0, [0, 0, 0]), (1, None, [0, 0, 0])):
        runtime.ready.fill(dict(stacked_round._trained(runtime, told)))
        runtime.train(0, number, start, clip=clip)
        assert alone == left
    runtime.train(0, 1, start)
    assert alone == [0] * 4, "what was ready is handed out once"


def test_a_site_without_records_leaves_all_to_one_by_one(
    tiny: Tiny, alone: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    runtime = CellRuntime(tiny("algorithm=dpsgd", "engine=stacked"))
    emptied = runtime.nodes[1].train
    runtime.nodes = (
        runtime.nodes[0],
        replace(
            runtime.nodes[1],
            train=replace(emptied, train_x=emptied.train_x[:0], train_y=emptied.train_y[:0]),
        ),
    )
    told = [stacked_round.Instruction(p, 1, runtime.initial_weights, None) for p in (0, 1)]
    assert stacked_round._trained(runtime, told) == []
    assert "one by one: a site has no records" in caplog.text


def test_one_site_is_no_stack(tiny: Tiny, alone: list[int]) -> None:
    for words in (("federation=central",), ("federation=central", "algorithm=dpsgd")):
        expected = run_federation(tiny(*words))
        alone.clear()
        found = run_federation(tiny(*words, "engine=stacked"))
        assert alone == [0, 0, 0]
        assert torch.equal(found.weights["vector"], expected.weights["vector"])
    alone.clear()
    run_federation(tiny("federation=central", "engine=stacked", "engine.precision=bf16"))
    assert alone == [], "only a stack has the precision that was asked for"


# ------------------------------------------------------------------ guards


def test_a_stack_that_does_not_clip_is_refused(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def unclipped(rule: Any, squares: torch.Tensor, *rest: Any) -> torch.Tensor:
        return torch.ones_like(squares).masked_fill(~rest[-1], 0.0)

    monkeypatch.setattr(stacked, "_factors", unclipped)
    with pytest.raises(ClientFailure, match="ProtectionError: gradient engine 'stacked'") as caught:
        run_federation(tiny("algorithm=dpsgd", "engine=stacked"))
    assert caught.value.site == "site-1"
    assert "ensure_certified" in caught.value.traceback_text
    assert caught.value.released == ()


def test_a_fault_in_the_stack_fails_the_run_with_its_traceback(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(stacked_round, "train_plain_stacked", torn)
    with pytest.raises(
        ClientFailure, match="site site-1 raised RuntimeError: out of mem"
    ) as caught:
        run_federation(tiny("engine=stacked"))
    assert "in torn" in caught.value.traceback_text


def test_a_model_that_is_mapped_wrongly_trains_one_by_one(
    tiny: Tiny, alone: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stacked_round, "gradient_faults", lambda *_: "the gradient of w is wrong")
    run_federation(tiny("algorithm=none", *IMAGES, "federation.rounds=1", "engine=stacked"))
    assert alone
    assert "one by one: the gradient of w is wrong" in caplog.text


def test_a_stack_that_hangs_fails_the_run_in_time(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("engine=stacked", "engine.timeout_s=0.3")
    before = open_runtime(dumps(config))
    monkeypatch.setattr(stacked_round, "_trained", lambda *_: time.sleep(4))
    started = time.monotonic()
    with pytest.raises(ClientFailure, match="0 of 3 sites answered"):
        run_federation(config)
    assert 0.8 < time.monotonic() - started < 3, "three sites' time, no more"
    assert open_runtime(dumps(config)) is not before


def test_a_collapse_is_told_by_the_site_that_collapsed(tiny: Tiny) -> None:
    words = ("algorithm=none", "federation.lr=1e20", "federation.rounds=2")
    expected, found = (
        run_federation(tiny(*words, *engine)) for engine in ((), ("engine=stacked",))
    )
    assert expected.collapse is not None
    assert found.collapse is not None
    assert (found.collapse.reason, found.collapse.site) == (
        expected.collapse.reason,
        expected.collapse.site,
    )
    assert found.events == expected.events


# ------------------------------------------------------------------ records on the device


def test_records_are_stacked_once_for_all_rounds_and_cells(tiny: Tiny) -> None:
    runtime = CellRuntime(tiny("engine=stacked"))
    first = runtime.stacked_records([0, 1, 2])
    assert runtime.stacked_records([0, 1, 2]) is first
    assert CellRuntime(tiny("algorithm=dpsgd")).stacked_records([0, 1, 2]) is first
    assert runtime.stacked_records([2, 1, 0]) is not first
    assert len(device_records._stacks) == 1


def test_an_audited_cell_has_its_own_records(tiny: Tiny) -> None:
    plain_x = CellRuntime(tiny()).stacked_records([0, 1, 2]).x
    audited = CellRuntime(tiny("audit=fast", "audit.canaries=50"))
    again = audited.stacked_records([0, 1, 2])
    assert torch.equal(again.site(0)[0], audited.nodes[0].train.train_x)
    assert len(again.x) != len(plain_x)


def test_elsewhere_the_single_copies_become_views_of_the_stack(tiny: Tiny) -> None:
    """The meta device stands in for one that is not the CPU."""
    config = tiny()
    sites = [node.train for node in CellRuntime(config).nodes]
    device_records._copies.clear()
    records = device_records.DeviceRecords("wisconsin", torch.device("meta"))
    kept = records.stacked(sites)
    for site in sites:
        x, y = records.train(site)
        assert x._base is kept.x
        assert y._base is kept.y
        assert x.shape == site.train_x.shape
    device_records._copies.clear()


# ------------------------------------------------------------------ no waiting for the device


def _watch(monkeypatch: pytest.MonkeyPatch, watch: Callable[[], Any]) -> list[str]:
    """Run the rounds' loops under ``watch``; the names of those that ran."""
    ran: list[str] = []
    for place, name in ((plain, "run_plain_steps"), (dpsgd_stacked, "run_noisy_steps")):
        honest = getattr(place, name)

        def watched(*args: Any, honest: Any = honest, name: str = name) -> Any:
            ran.append(name)
            with watch():
                return honest(*args)

        monkeypatch.setattr(place, name, watched)
    return ran


WATCHED = [name for name in CELLS if "adam" not in name]


@pytest.mark.parametrize("name", [*WATCHED, "bf16"])
def test_inside_a_round_nothing_waits_for_the_device(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """torch's Adam reads its step counter, which is on the CPU wherever the weights are."""
    ran = _watch(monkeypatch, NoWaiting)
    words = CELLS.get(name, ("algorithm=dpsgd", "engine.precision=bf16"))
    found = run_federation(tiny(*words, "engine=stacked"))
    assert len(ran) == len(found.history) > 0


def test_the_watch_notices_training_that_waits(tiny: Tiny) -> None:
    runtime = CellRuntime(tiny("algorithm=dpsgd"))
    task = runtime.task(0, 1, runtime.initial_weights)
    assert isinstance(runtime.mechanism, DpSgd)
    runtime.mechanism.train(task)
    with pytest.raises(AssertionError, match="inside a round"), NoWaiting():
        runtime.mechanism.train(task)


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("name", CELLS)
def test_on_cuda_a_round_never_waits_and_ends_where_it_ends_one_by_one(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The noise is drawn site by site on the device, so that it is the same noise, too."""
    words = (*CELLS[name], "device=cuda")
    expected = run_federation(tiny(*words))
    ran = _watch(monkeypatch, synchronisation_refused)
    found = run_federation(tiny(*words, "engine=stacked"))
    assert len(ran) == len(found.history)
    assert found.events == expected.events
    assert largest_gap(found, expected) <= 1e-3

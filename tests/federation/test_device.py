"""Where a cell trains: on CUDA where there is one, else on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedprivacy.audit.engine_selftest import engine_selftest
from fedprivacy.cell import run_cell
from fedprivacy.config.schema import CellConfig
from fedprivacy.data.cache import load_data
from fedprivacy.device import resolve_device
from fedprivacy.errors import ConfigError
from fedprivacy.federation import device_records
from fedprivacy.federation.device_records import DeviceRecords
from fedprivacy.federation.run import run_federation
from fedprivacy.federation.site import CellRuntime, LocalUpdate
from fedprivacy.mechanisms.dpsgd import DpSgd
from fedprivacy.training.task import LocalTask

Tiny = Callable[..., CellConfig]
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
TRAINED = [
    ("algorithm=none",),
    *(("algorithm=dpsgd", "algorithm.noise_multiplier=0", *options) for options in (
        (),
        ("algorithm.sampling=shuffle",),
        ("algorithm.clipping=normalized",),
        ("algorithm.clipping=automatic", "algorithm.ema=0.9"),
        ("algorithm.clipping=per_layer", "algorithm.augmentations=2"),
    )),
    *((f"algorithm={name}",) for name in (
        "svt", "svt_flare28", "svt_exact", "gaussian", "gaussian_clipped", "percentile",
        "central_gaussian", "local_source", "release_gaussian",
    )),
    (
        "algorithm=stacked",
        "algorithm.mechanisms=[{name: dpsgd, noise_multiplier: 0}, gaussian_clipped]",
    ),
]  # fmt: skip
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def no_copies() -> Iterator[None]:
    device_records._copies.clear()
    yield
    device_records._copies.clear()


def test_auto_follows_what_torch_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, expected in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=available: found)
        assert resolve_device("auto").type == expected
        assert resolve_device("cpu").type == "cpu"


@no_gpu
def test_auto_falls_back_to_the_cpu(tiny: Tiny) -> None:
    assert CellRuntime(tiny("device=auto")).parameters.flat.device.type == "cpu"
    assert len(run_federation(tiny("device=auto")).history) == 3


@no_gpu
def test_cuda_without_a_device_is_a_configuration_error(tiny: Tiny) -> None:
    with pytest.raises(ConfigError) as caught:
        run_federation(tiny("device=cuda"))
    assert caught.value.key == "device"
    assert "device=auto" in caught.value.fix


def test_on_the_cpu_records_are_not_copied(tiny: Tiny) -> None:
    site = load_data(tiny().dataset).sites[0]
    records = DeviceRecords("wisconsin", torch.device("cpu"))
    assert records.train(site)[0] is site.train_x
    assert records.test(site)[1] is site.test_y


def test_elsewhere_they_are_copied_once_and_kept_for_the_next_cell(tiny: Tiny) -> None:
    """The meta device stands in for one that is not the CPU."""
    site, other = load_data(tiny().dataset).sites[:2]
    meta = torch.device("meta")
    first = DeviceRecords("wisconsin", meta).train(site)
    assert first[0].device.type == "meta"
    assert first[0].shape == site.train_x.shape
    assert first[1].shape == site.train_y.shape
    again = DeviceRecords("wisconsin", meta)
    assert again.train(site)[0] is first[0]
    assert again.test(site)[0].shape == site.test_x.shape
    assert again.train(other)[0].shape == other.train_x.shape
    assert DeviceRecords("other records", meta).train(site)[0] is not first[0]


def test_only_the_last_data_sets_stay_on_the_device(tiny: Tiny) -> None:
    site = load_data(tiny().dataset).sites[0]
    meta = torch.device("meta")
    first = DeviceRecords("a", meta).train(site)[0]
    DeviceRecords("b", meta)
    assert DeviceRecords("a", meta).train(site)[0] is first
    DeviceRecords("c", meta)
    DeviceRecords("d", meta)
    assert list(device_records._copies) == [("c", "meta"), ("d", "meta")]


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("overrides", TRAINED, ids=lambda overrides: " ".join(overrides))
def test_on_cuda_a_cell_trains_as_on_the_cpu(tiny: Tiny, overrides: tuple[str, ...]) -> None:
    """Up to rounding; noise that is drawn on the device is another stream, and is left out."""
    here = run_federation(tiny(*overrides, "device=cpu")).weights["vector"]
    there = run_federation(tiny(*overrides, "device=cuda")).weights["vector"]
    assert there.device.type == "cpu"
    torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4)


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize(("z", "q", "least"), [(2.0, 1.0, 0.5), (1.5, 0.2, 0.0)])
def test_on_cuda_the_engine_keeps_what_its_ledger_says(z: float, q: float, least: float) -> None:
    mechanism = DpSgd(noise_multiplier=z, max_grad_norm=1.0, sampling_rate=q, divisor=1.0)
    settings = {"canaries": 10_000, "rounds": 4, "local_epochs": 1, "seed": 0, "device": "cuda"}
    found = engine_selftest(mechanism, **settings)
    assert found.passed, found.summary()
    assert least * found.proven <= found.estimate <= found.proven

    def half(part: DpSgd, task: LocalTask) -> Any:
        return DpSgd.train(replace(part, noise_multiplier=z / 4), task)

    assert not engine_selftest(mechanism, **settings, train=half).passed


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("algorithm", ["none", "svt"])
def test_on_cuda_an_audit_finds_what_it_finds_on_the_cpu(
    tiny: Tiny, tmp_path: Path, algorithm: str
) -> None:
    overrides = (f"algorithm={algorithm}", "audit=fast", "audit.canaries=200")
    cells = [run_cell(tiny(*overrides, f"device={d}"), tmp_path / d) for d in ("cpu", "cuda")]
    assert cells[0].verdict == cells[1].verdict
    here, there = (cell.audit for cell in cells)
    assert here is not None
    assert there is not None
    assert there["ceiling"] == here["ceiling"]
    for view, found in here["per_view"].items():
        assert there["per_view"][view]["epsilon_lower"] == pytest.approx(
            found["epsilon_lower"], abs=0.3
        )


@gpu
@pytest.mark.gpu
def test_on_cuda_model_and_records_stay_on_the_device(tiny: Tiny) -> None:
    runtime = CellRuntime(tiny("device=cuda"))
    flat = runtime.parameters.flat
    for number in (1, 2):
        done = runtime.train(0, number, runtime.initial_weights)
        assert isinstance(done, LocalUpdate)
        assert done.update.device.type == "cpu"
        runtime.evaluate(0, runtime.initial_weights)
    assert runtime.parameters.flat is flat
    assert flat.is_cuda
    [copies] = device_records._copies.values()
    assert sorted(name for _, name in copies) == ["test_x", "test_y", "train_x", "train_y"]
    assert all(tensor.is_cuda for tensor in copies.values())


@gpu
@pytest.mark.gpu
def test_on_cuda_the_same_seed_gives_the_same_bits(tiny: Tiny) -> None:
    config = tiny("algorithm=dpsgd", "device=cuda")
    first, again = (run_federation(config).weights["vector"] for _ in range(2))
    assert torch.equal(first, again)

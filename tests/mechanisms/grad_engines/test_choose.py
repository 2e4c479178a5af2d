from __future__ import annotations

import pytest
import torch
from torch import nn

from fedprivacy.errors import ConfigError
from fedprivacy.mechanisms.grad_engines.choose import CHOICES, build_engine, fastest_engine
from fedprivacy.mechanisms.grad_engines.opacus import needs_functorch
from fedprivacy.mechanisms.grad_engines.vmap import chunk_for


@pytest.mark.parametrize(
    ("case", "engine"),
    [("mlp", "bookkeeping"), ("density_cnn", "bookkeeping"), ("unet3d", "vmap")],
)
def test_auto_by_model(make_case, case: str, engine: str) -> None:
    built = make_case(case)
    assert fastest_engine(built.model) == engine
    assert build_engine("auto", built.model, built.loss).name == engine


@pytest.mark.parametrize(
    ("case", "record", "engine"),
    [
        ("mlp", (10**6,), "bookkeeping"),
        ("density_cnn", (1, 64, 64), "bookkeeping"),
        ("density_cnn", (1, 128, 128), "loop"),
        ("unet3d", (1, 24, 30, 24), "vmap"),
        ("unet3d", (1, 48, 60, 48), "loop"),
    ],
)
def test_auto_by_the_size_of_a_record(make_case, case: str, record: tuple, engine: str) -> None:
    built = make_case(case)
    assert build_engine("auto", built.model, built.loss, record=record).name == engine


def test_a_batch_goes_through_no_forward_pass_of_someone_else() -> None:
    class Own(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x / x.abs().amax().clamp(min=1e6))

    layers = nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(8, 1)
    assert fastest_engine(nn.Sequential(*layers)) == "bookkeeping"
    assert fastest_engine(Own(*layers)) == "vmap"
    assert fastest_engine(nn.Sequential(Own(*layers))) == "vmap"
    hooked = nn.Sequential(*layers)
    handle = hooked.register_forward_hook(lambda _m, _x, out: out - out.mean(0))
    assert fastest_engine(hooked) == "vmap"
    handle.remove()
    assert fastest_engine(hooked) == "bookkeeping"
    hooked.forward = lambda x: x
    assert fastest_engine(hooked) == "vmap"
    assert fastest_engine(nn.Sequential(*layers, nn.BatchNorm1d(1, affine=False))) == "vmap"


def test_auto_falls_back_to_the_loop() -> None:
    recurrent = nn.ModuleList([nn.Conv1d(1, 1, 3), nn.GRU(3, 3)])
    assert fastest_engine(recurrent) == "loop"
    assert fastest_engine(nn.Sequential(nn.Linear(3, 3), nn.PReLU())) == "loop"


@pytest.mark.parametrize("name", [name for name in CHOICES if name != "auto"])
def test_engines_are_built_by_name(make_case, name: str) -> None:
    case = make_case("mlp")
    assert build_engine(name, case.model, case.loss).name == name


def test_unknown_engine_is_refused(make_case) -> None:
    case = make_case("mlp")
    with pytest.raises(ConfigError, match=r"algorithm.grad_engine='ghost'.*auto, opacus"):
        build_engine("ghost", case.model, case.loss)


@pytest.mark.parametrize(
    ("record", "chunk"), [((28,), 16), ((1, 64, 64), 16), ((1, 48, 60, 48), 2), ((0,), 16)]
)
def test_vmap_chunks(record: tuple[int, ...], chunk: int) -> None:
    assert chunk_for(torch.Size(record).numel()) == chunk


def test_opacus_uses_functorch_where_its_hooks_are_slow_or_wrong(make_case) -> None:
    assert needs_functorch(make_case("unet3d").model)
    assert needs_functorch(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"))
    assert not needs_functorch(make_case("density_cnn").model)

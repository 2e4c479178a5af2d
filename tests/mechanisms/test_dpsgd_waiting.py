"""A round's noisy steps do not wait for a GPU, one site by itself too; but Opacus' may."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_images import IMAGES
from waiting import NoWaiting, synchronisation_refused

from fedprivacy.config.schema import CellConfig
from fedprivacy.federation.run import FederationOutcome, run_federation
from fedprivacy.mechanisms import step_losses
from fedprivacy.mechanisms.dpsgd import DpSgd

Tiny = Callable[..., CellConfig]
OPTIONS = {
    "as it comes": (),
    "adaptive": ("algorithm.clipping=adaptive",),
    "per layer": ("algorithm.clipping=per_layer",),
    "averaged": ("algorithm.ema=0.9",),
    "several views": ("algorithm.augmentations=2",),
    "shuffled": ("algorithm.sampling=shuffle",),
    "vmap": ("algorithm.grad_engine=vmap",),
    "loop": ("algorithm.grad_engine=loop",),
    "opacus": ("algorithm.grad_engine=opacus",),
    "adaptive, several views, vmap": (
        "algorithm.clipping=adaptive",
        "algorithm.augmentations=2",
        "algorithm.grad_engine=vmap",
    ),
    "images": IMAGES,
    "images, several views": (*IMAGES, "algorithm.augmentations=2"),
}


def watch(monkeypatch: pytest.MonkeyPatch, watching: Callable[[], Any]) -> list[int]:
    """Take all steps under ``watching``; how many there were in each round."""
    honest, ran = DpSgd.run_steps, list[int]()

    def watched(self: DpSgd, *args: Any) -> list[torch.Tensor]:
        ran.append(len(args[2]))
        with watching():
            return honest(self, *args)

    monkeypatch.setattr(DpSgd, "run_steps", watched)
    return ran


def leave_losses_for_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU; see ``StepLosses``."""
    honest = step_losses.StepLosses.__init__

    def patched(self: step_losses.StepLosses, device: torch.device) -> None:
        honest(self, device)
        self._reads_at_once = False

    monkeypatch.setattr(step_losses.StepLosses, "__init__", patched)


@pytest.mark.parametrize("name", OPTIONS)
def test_nothing_in_the_steps_needs_a_value_of_the_device(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    config = tiny("algorithm=dpsgd", *OPTIONS[name])
    expected = run_federation(config)
    leave_losses_for_the_end(monkeypatch)
    ran = watch(monkeypatch, NoWaiting)
    found = run_federation(config)
    assert min(ran) > 0
    same(found, expected)


@pytest.mark.parametrize(
    "read",
    [
        float,
        bool,
        torch.Tensor.item,
        torch.Tensor.tolist,
        torch.Tensor.numpy,
        torch.Tensor.cpu,
        torch.nonzero,
        torch.unique,
        lambda values: values[values > 0],
        lambda _: torch.tensor(1.0),
    ],
)
def test_the_watch_notices(read: Callable[[torch.Tensor], Any]) -> None:
    value = torch.ones(1)
    with pytest.raises(AssertionError, match="inside a round"), NoWaiting():
        read(value)
    read(value)


def test_the_watch_notices_a_loss_that_is_read(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    watch(monkeypatch, NoWaiting)
    with pytest.raises(Exception, match="inside a round"):
        run_federation(tiny("algorithm=dpsgd"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.gpu
@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "opacus"])
def test_on_cuda_the_steps_never_wait(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The first run records what is replayed afterwards, which does wait; Opacus is not ours."""
    config = tiny("algorithm=dpsgd", "device=cuda", *OPTIONS[name])
    expected = run_federation(config)
    ran = watch(monkeypatch, synchronisation_refused)
    found = run_federation(config)
    assert min(ran) > 0
    assert found.events == expected.events


def same(found: FederationOutcome, expected: FederationOutcome) -> None:
    assert found.events == expected.events
    assert torch.equal(found.weights["vector"], expected.weights["vector"])

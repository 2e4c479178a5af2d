from __future__ import annotations

import pytest
import torch
from torch import nn

from fedprivacy.errors import ProtectionError
from fedprivacy.mechanisms.grad_engines.bookkeeping import BookkeepingEngine, linear_layers
from fedprivacy.mechanisms.grad_engines.clipping import CLIPPINGS, Contribution
from fedprivacy.mechanisms.grad_engines.loop import LoopEngine


def mean_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return output.flatten(1).mean(1).sub(target).square().mean()


def clipped(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return BookkeepingEngine(model, mean_loss).clipped_sum(x, torch.zeros(len(x)), 1.0).total


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(self.layer(x))


class Changed(nn.Module):
    """Changes the input of a layer after the layer has read it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.first(x))
        out = self.second(h.detach())
        h.mul_(2)
        return out + h


def test_a_layer_used_twice_is_refused() -> None:
    with pytest.raises(ProtectionError, match="'layer' is used more than once"):
        clipped(Twice(), torch.randn(3, 4))


def test_sequences_are_refused() -> None:
    with pytest.raises(ProtectionError, match=r"'0' sees an input of shape \(3, 5, 4\)"):
        clipped(nn.Sequential(nn.Linear(4, 2)), torch.randn(3, 5, 4))


def test_in_place_activations_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 1))
    with pytest.raises(ProtectionError, match=r"'0' .*in place.*grad_engine=loop"):
        clipped(model, torch.randn(3, 4))


def test_an_input_changed_in_place_is_refused() -> None:
    with pytest.raises(ProtectionError, match="'second' has its input"):
        clipped(Changed(), torch.randn(3, 4))


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model


def under_two_names() -> nn.Module:
    model = Twice()
    model.other = model.layer
    return model


class Scaled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def with_one_more_parameter(layer: nn.Module) -> nn.Module:
    layer.extra = nn.Parameter(torch.ones(3))
    return layer


@pytest.mark.parametrize(
    "model",
    [
        with_one_more_parameter(nn.Linear(4, 4)),
        nn.Sequential(nn.Linear(4, 4), with_one_more_parameter(nn.Conv1d(1, 1, 1))),
        nn.utils.weight_norm(nn.Linear(4, 4)),
        tied(),
        under_two_names(),
        Scaled(4, 4),
        nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)),
        nn.Sequential(nn.Linear(4, 4), nn.PReLU()),
        nn.ReLU(),
    ],
)
def test_other_models_are_not_taken_for_all_linear(model: nn.Module) -> None:
    assert linear_layers(model) is None
    with pytest.raises(ProtectionError, match="grad_engine=auto"):
        BookkeepingEngine(model, mean_loss)


def test_hooks_are_removed_when_the_model_raises() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    with pytest.raises(RuntimeError):
        clipped(model, torch.randn(3, 9))
    assert not model[0]._forward_hooks


def small_cnn(**more: object) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, **more), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.LazyLinear(1)
    )


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("rule", CLIPPINGS)
def test_convolutions_of_several_views_are_clipped_as_the_loop_clips_them(
    views: int, rule: str
) -> None:
    torch.manual_seed(0)
    model, shape = small_cnn(bias=False).double(), (6, 2, 5, 5)
    x = torch.randn(*shape, dtype=torch.float64)
    model(x)
    x = x if views == 1 else torch.stack([x + 0.1 * torch.randn_like(x) for _ in range(views)], 1)
    y = torch.zeros(x.shape[: 1 if views == 1 else 2], dtype=torch.float64)
    contribution = Contribution(CLIPPINGS[rule], views)
    expected = LoopEngine(model, mean_loss, contribution).clipped_sum(x, y, 0.2)
    for chunk in (None, 4):
        found = BookkeepingEngine(model, mean_loss, chunk, contribution).clipped_sum(x, y, 0.2)
        torch.testing.assert_close(found.total, expected.total, rtol=1e-9, atol=1e-12)


def test_a_convolution_without_a_batch_is_refused() -> None:
    model = nn.Sequential(nn.Unflatten(0, (3, -1)), nn.Conv1d(3, 3, 1))
    with pytest.raises(ProtectionError, match=r"'2' sees an input of shape \(3, 4\)"):
        clipped(nn.Sequential(nn.Flatten(0), *model), torch.randn(3, 4))


@pytest.mark.parametrize("mode", ["reflect", "circular"])
def test_other_paddings_are_not_taken(mode: str) -> None:
    with pytest.raises(ProtectionError, match="padded with zeros"):
        BookkeepingEngine(nn.Conv2d(1, 1, 3, padding=1, padding_mode=mode), mean_loss)
    with pytest.raises(ProtectionError, match="padded with zeros"):
        BookkeepingEngine(nn.Conv2d(1, 1, 3, padding="same"), mean_loss)


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("cnn", [False, True])
def test_what_memory_held_before_is_not_in_the_sum(
    monkeypatch: pytest.MonkeyPatch, cnn: bool, chunk: int | None
) -> None:
    torch.manual_seed(0)
    model = small_cnn() if cnn else nn.Sequential(nn.Flatten(), nn.Linear(50, 4), nn.Linear(4, 1))
    x, y = torch.randn(6, 2, 5, 5), torch.zeros(6)
    model(x)
    model.unused = nn.Linear(2, 2)
    model.forward = lambda x: nn.Sequential(*list(model)[:-1])(x)
    expected = LoopEngine(model, mean_loss).clipped_sum(x, y, 0.2).total
    new = torch.Tensor.new_empty
    monkeypatch.setattr(
        torch.Tensor, "new_empty", lambda *a, **kw: new(*a, **kw).fill_(float("nan"))
    )
    found = BookkeepingEngine(model, mean_loss, chunk).clipped_sum(x, y, 0.2).total
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert not BookkeepingEngine(model, mean_loss).clipped_sum(x[:0], y[:0], 1.0).total.any()

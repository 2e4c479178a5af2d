"""Start-up check that an engine really clips: no record may contribute more than the clip norm.

Hooks that compute another gradient than the model's fail silently otherwise: the noise would be
scaled to a sensitivity that does not hold.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch
from torch import nn

from fedprivacy.errors import ProtectionError
from fedprivacy.mechanisms.grad_engines.base import GradEngine, as_batch
from fedprivacy.mechanisms.grad_engines.clipping import PLAIN, Contribution, parameter_layers
from fedprivacy.mechanisms.grad_engines.loop import LoopEngine
from fedprivacy.models.registry import per_sample_faults
from fedprivacy.training.losses import Loss

NORM_TOLERANCE = 1e-4
# Rounding alone moves a sound engine by up to 1e-3: one ReLU or max pooling near a tie that falls
# the other way, TF32 on CUDA. The faults looked for are 20 % and more.
GRADIENT_TOLERANCE = 1e-2
BUDGET_S = 20.0
_certified: set[tuple[object, ...]] = set()
_P = ParamSpec("_P")
_T = TypeVar("_T")


def ensure_certified(
    model: nn.Module,
    loss: Loss,
    x: torch.Tensor,
    y: torch.Tensor,
    engine: GradEngine,
    c: float,
    contribution: Contribution = PLAIN,
) -> None:
    """Run ``certificate`` once per process for this architecture, engine, rule and bound ``c``.

    ``x`` and ``y`` only tell shapes, dtypes and the device: the records tried are made up, so
    that whether training is refused does not depend on private records.

    Raises:
        ProtectionError: see ``certificate``.
    """
    shapes = tuple((name, tuple(p.shape)) for name, p in model.named_parameters())
    place = (tuple(x.shape[1:]), str(x.device), getattr(loss, "__qualname__", repr(loss)))
    rule = (contribution.clipping.name, contribution.views)
    key = (type(model), repr(model), shapes, *place, engine.name, c, *rule)
    if key in _certified:
        return
    draws = torch.Generator().manual_seed(0)
    # The loop takes records one by one in any case.
    k = 1 if isinstance(engine, LoopEngine) else 2
    views = () if contribution.views == 1 else (contribution.views,)
    fake_x = torch.randn((k, *views, *x.shape[1:]), generator=draws).to(x.device, x.dtype)
    fake_y = torch.ones((k, *views, *y.shape[1:]), dtype=y.dtype, device=y.device)
    fake_y[-1] = 0
    if certificate(model, loss, fake_x, fake_y, engine, c, contribution):
        _certified.add(key)


def certificate(
    model: nn.Module,
    loss: Loss,
    x: torch.Tensor,
    y: torch.Tensor,
    engine: GradEngine,
    max_norm: float,
    contribution: Contribution = PLAIN,
) -> bool:
    """Check noise-free contributions of a few records against the one-by-one loop.

    Each record's contribution has norm <= ``max_norm`` (1 + 1e-4) and equals the loop's, and the
    records together sum, unclipped, to what the loop gives. Records after the first are tried
    while that fits into about 20 seconds. Dropout is off meanwhile.

    Args:
        model: on the device of ``x``; left as found.
        loss: mean loss over a batch.
        x: ``(k, ...)`` records, k >= 1; two show whether the engine mixes records.
        y: their targets.
        engine: the engine to certify, over ``model``.
        max_norm: bound on the norm of one record's contribution.
        contribution: the engine's clipping rule, and the views that a record of ``x`` has.

    Returns:
        False if the model's own gradients are not finite, so that nothing could be compared.

    Raises:
        ProtectionError: the engine is wrong or fails on this model; names the layer if found.
    """
    loop, views = LoopEngine(model, loss), contribution.views
    references: list[torch.Tensor] = []
    with _without_dropout(model):
        start = time.perf_counter()
        for one_x, one_y in zip(x, y, strict=True):
            record = as_batch(one_x, views), as_batch(one_y, views)
            references.append(_call(model, loop, loop.gradient, *record)[1])
            # Three gradients a record: the loop's, the engine's alone and in the batch.
            if (time.perf_counter() - start) * 3 * (1 + 1 / len(references)) > BUDGET_S:
                break
        if not all(bool(torch.isfinite(g).all()) for g in references):
            return False
        for i, reference in enumerate(references):
            one = x[i : i + 1], y[i : i + 1]
            got = _call(model, engine, engine.clipped_sum, *one, max_norm).total
            _check_norm(model, engine, got, max_norm)
            _check_equal(model, engine, got, _clip(model, reference, max_norm, contribution))
        k = len(references)
        together = _call(model, engine, engine.clipped_sum, x[:k], y[:k], math.inf).total
        _check_equal(model, engine, together, torch.stack(references).sum(0))
    return True


def _clip(
    model: nn.Module, gradient: torch.Tensor, max_norm: float, contribution: Contribution
) -> torch.Tensor:
    # In float64, so that the norms are not those of the engine's own arithmetic.
    wide = gradient.double()
    parts = torch.split(wide, [p.numel() for p in model.parameters()])
    squares = torch.stack([part.square().sum() for part in parts]).unsqueeze(1)
    factors = contribution.clipping.factors(squares, parameter_layers(model), max_norm)
    return torch.cat([part * factor for part, factor in zip(parts, factors, strict=True)])


@contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    layers = [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    modes = [layer.training for layer in layers]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.training = mode


def _call(
    model: nn.Module,
    engine: GradEngine,
    compute: Callable[_P, _T],
    *args: _P.args,
    **kwargs: _P.kwargs,
) -> _T:
    """The result of ``compute``; its failure becomes a refusal that tells what to change."""
    try:
        return compute(*args, **kwargs)
    except ProtectionError:
        raise
    except (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError) as error:
        raise ProtectionError(
            f"gradient engine {engine.name!r} fails on this model ({type(error).__name__}: "
            f"{error}). {_advice(model, engine)}"
        ) from error


def _check_norm(model: nn.Module, engine: GradEngine, got: torch.Tensor, max_norm: float) -> None:
    norm = float(got.double().norm())
    if not norm <= max_norm * (1 + NORM_TOLERANCE):
        raise ProtectionError(
            f"gradient engine {engine.name!r} lets one record contribute {norm:.6g} where "
            f"algorithm.max_grad_norm={max_norm:g} is promised. {_advice(model, engine)}"
        )


def _check_equal(
    model: nn.Module, engine: GradEngine, got: torch.Tensor, expected: torch.Tensor
) -> None:
    gap = got.double() - expected.double()
    scale = float(expected.double().norm())
    if float(gap.norm()) <= GRADIENT_TOLERANCE * scale + 1e-12:
        return
    sizes = [p.numel() for p in model.parameters()]
    worst = max(
        zip(model.named_parameters(), torch.split(gap, sizes), strict=True),
        key=lambda item: float(item[1].norm()),
    )[0][0]
    raise ProtectionError(
        f"gradient engine {engine.name!r} differs from the one-by-one gradients by "
        f"{float(gap.norm()) / max(scale, 1e-300):.2g} of their norm, most at parameter "
        f"{worst!r}. {_advice(model, engine)}"
    )


def _advice(model: nn.Module, engine: GradEngine) -> str:
    faults = per_sample_faults(model)
    suspects = f"Suspects: {'; '.join(faults)}. " if faults else ""
    if engine.name == "loop":
        return suspects + "Change the model: see fedprivacy.models for layers that are safe."
    return suspects + "Remove them from the model, or use algorithm.grad_engine=loop."

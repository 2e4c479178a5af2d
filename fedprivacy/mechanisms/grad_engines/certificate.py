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
# A bound of half a record's own gradient is one that clipping must enforce, whatever C is.
BINDING = 0.5
# Made-up records of unit size may overflow a model that expects smaller ones.
_SIZES = (1.0, 0.1, 0.01)
_certified: set[tuple[object, ...]] = set()
_P = ParamSpec("_P")
_T = TypeVar("_T")


class NotComparable(ProtectionError):
    """Made-up records have no finite gradient other than 0: there is nothing to compare."""


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
    for size in _SIZES:
        try:
            if certificate(model, loss, size * fake_x, fake_y, engine, c, contribution):
                _certified.add(key)
            return
        except NotComparable:
            if size == _SIZES[-1]:
                raise


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

    Each record's contribution has norm <= ``max_norm`` (1 + 1e-4) and equals the loop's, at
    ``max_norm`` and at a bound below its own gradient, where an engine that does not clip is found
    out whatever ``max_norm`` is. The records together sum, unclipped, to what the loop gives.
    Records after the first are tried while that fits into about 20 seconds. Dropout is off
    meanwhile.

    Args:
        model: on the device of ``x``; left as found.
        loss: mean loss over a batch.
        x: ``(k, ...)`` records, k >= 1; two show whether the engine mixes records.
        y: their targets.
        engine: the engine to certify, over ``model``.
        max_norm: bound on the norm of one record's contribution.
        contribution: the engine's clipping rule, and the views that a record of ``x`` has.

    Returns:
        False if the model's own weights are not finite: training ends before anything is sent.

    Raises:
        NotComparable: weights are finite, and yet no record has a finite gradient other than 0.
        ProtectionError: the engine is wrong or fails on this model; names the layer if found.
    """
    loop, views = LoopEngine(model, loss), contribution.views
    references: list[torch.Tensor] = []
    with _without_dropout(model):
        start = time.perf_counter()
        for one_x, one_y in zip(x, y, strict=True):
            record = as_batch(one_x, views), as_batch(one_y, views)
            references.append(_call(model, loop, loop.gradient, *record)[1])
            # Four gradients a record: the loop's, the engine's alone, twice, and in the batch.
            if (time.perf_counter() - start) * 4 * (1 + 1 / len(references)) > BUDGET_S:
                break
        if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
            return False
        norms = [float(reference.double().norm()) for reference in references]
        _check_comparable(norms)
        for i, (reference, norm) in enumerate(zip(references, norms, strict=True)):
            one = x[i : i + 1], y[i : i + 1]
            for bound in sorted({max_norm, min(max_norm, BINDING * norm)} - {0.0}):
                got = _call(model, engine, engine.clipped_sum, *one, bound).total
                _check_norm(model, engine, got, bound, max_norm)
                _check_equal(model, engine, got, _clip(model, reference, bound, contribution))
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


def _check_comparable(norms: list[float]) -> None:
    if all(math.isfinite(norm) for norm in norms) and max(norms) > 0:
        return
    raise NotComparable(
        "no record's contribution could be checked: the gradients of made-up records have norms "
        f"{', '.join(f'{norm:g}' for norm in norms)}, though the weights are finite. Change the "
        "model or the loss so that records of unit size have finite gradients other than 0"
    )


def _check_norm(
    model: nn.Module, engine: GradEngine, got: torch.Tensor, bound: float, max_norm: float
) -> None:
    norm = float(got.double().norm())
    if not norm <= bound * (1 + NORM_TOLERANCE):
        promised = f"algorithm.max_grad_norm={max_norm:g} is promised"
        if bound < max_norm:
            promised = f"a clip norm of {bound:.6g} was asked for, to see whether it clips at all"
        raise ProtectionError(
            f"gradient engine {engine.name!r} lets one record contribute {norm:.6g} where "
            f"{promised}. {_advice(model, engine)}"
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
    if not faults:
        return "Use algorithm.grad_engine=loop."
    return suspects + "Remove them from the model, or use algorithm.grad_engine=loop."

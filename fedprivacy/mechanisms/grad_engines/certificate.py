"""Start-up check that an engine really clips: no record may contribute more than the clip norm.

Hooks that compute another gradient than the model's fail silently otherwise: the noise would be
scaled to a sensitivity that does not hold.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import torch
from torch import nn

from fedprivacy.errors import ProtectionError
from fedprivacy.mechanisms.grad_engines.base import GradEngine, as_batch
from fedprivacy.mechanisms.grad_engines.clipping import PLAIN, Contribution, parameter_layers
from fedprivacy.mechanisms.grad_engines.loop import LoopEngine
from fedprivacy.mechanisms.grad_engines.probes import (
    SCALES,
    binding_norm,
    comparable,
    finite_weights,
    made_up_records,
    without_dropout,
)
from fedprivacy.models.registry import per_sample_faults
from fedprivacy.training.losses import Loss

NORM_TOLERANCE = 1e-4
# Rounding alone moves a sound engine by up to 1e-3: one ReLU or max pooling near a tie that falls
# the other way, TF32 on CUDA. The faults looked for are 20 % and more.
GRADIENT_TOLERANCE = 1e-2
BUDGET_S = 20.0
# Of each record: the loop's, the engine's alone and in the batch, each of these at two clip norms.
_GRADIENTS = 5
_certified: set[tuple[object, ...]] = set()
_P = ParamSpec("_P")
_T = TypeVar("_T")


class NothingToCompare(ProtectionError):
    """The model's gradients show nothing of any engine: they are NaN, infinite or zero."""


def ensure_certified(
    model: nn.Module,
    loss: Loss,
    x: torch.Tensor,
    y: torch.Tensor,
    engine: GradEngine,
    c: float,
    contribution: Contribution = PLAIN,
    tolerance: float = GRADIENT_TOLERANCE,
) -> None:
    """Run ``certificate`` once per process for this architecture, engine, rule and bound ``c``.

    ``x`` and ``y`` only tell shapes, dtypes and the device: the records tried are made up (see
    ``probes``). Weights that are not finite are left to the training, whose update is not finite
    then and cannot leave the site. ``tolerance`` is how far from the loop's gradients the engine's
    may be, as a share of their norm; it leaves the bound on a contribution as strict as it is.

    Raises:
        ProtectionError: see ``certificate``.
        NothingToCompare: no made-up record has a gradient to compare.
    """
    key = probe_key(model, loss, x, engine, c, contribution)
    if key in _certified or not finite_weights(model):
        return
    # The loop takes records one by one in any case.
    k = 1 if isinstance(engine, LoopEngine) else 2
    with without_dropout(model):
        for records in made_up_records(x, y, k, contribution.views):
            references = _references(model, loss, *records, contribution.views)
            if comparable(references):
                _compare(model, engine, records, references, c, contribution, tolerance)
                _certified.add(key)
                return
    raise _incomparable(
        f"made-up records with inputs of scale {SCALES[0]:g} down to {SCALES[-1]:g}", c
    )


def probe_key(
    model: nn.Module,
    loss: Loss,
    x: torch.Tensor,
    engine: GradEngine,
    c: float,
    contribution: Contribution,
) -> tuple[object, ...]:
    """What a certificate is about: architecture, shape of a record, device, engine, rule, bound."""
    shapes = tuple((name, tuple(p.shape)) for name, p in model.named_parameters())
    place = (tuple(x.shape[1:]), str(x.device), getattr(loss, "__qualname__", repr(loss)))
    rule = (contribution.clipping.name, contribution.views)
    return (type(model), repr(model), shapes, *place, engine.name, c, *rule)


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

    Each record's contribution has norm <= C (1 + 1e-4) and equals the loop's, for C = ``max_norm``
    and, where that is too large to cut the record, for one that must (``probes.binding_norm``): an
    engine that does not clip would pass otherwise. The records together sum to what the loop
    gives, unclipped and cut. Records after the first are tried while that fits into about 20
    seconds. Dropout is off meanwhile.

    Args:
        model: on the device of ``x``; left as found.
        loss: mean loss over a batch.
        x: ``(k, ...)`` records, k >= 1; two show whether the engine mixes records.
        y: their targets.
        engine: the engine to certify, over ``model``.
        max_norm: bound on the norm of one record's contribution.
        contribution: the engine's clipping rule, and the views that a record of ``x`` has.

    Returns:
        False if the model's weights are not finite, so that nothing could be compared.

    Raises:
        ProtectionError: the engine is wrong or fails on this model (names the layer if found), or
            leaves other tensors in it. Or the weights are finite, but a record's gradient is NaN,
            infinite or zero.
    """
    if not finite_weights(model):
        return False
    with without_dropout(model):
        references = _references(model, loss, x, y, contribution.views)
        if not comparable(references):
            raise _incomparable("the records", max_norm)
        _compare(model, engine, (x, y), references, max_norm, contribution)
    return True


def _references(
    model: nn.Module, loss: Loss, x: torch.Tensor, y: torch.Tensor, views: int
) -> list[torch.Tensor]:
    """Unclipped gradients ``(d,)`` of the first records, as many as there is time for."""
    loop, references = LoopEngine(model, loss), list[torch.Tensor]()
    start = time.perf_counter()
    for one_x, one_y in zip(x, y, strict=True):
        record = as_batch(one_x, views), as_batch(one_y, views)
        references.append(_call(model, loop, loop.gradient, *record)[1])
        spent = time.perf_counter() - start
        if spent * _GRADIENTS * (1 + 1 / len(references)) > BUDGET_S:
            break
    return references


def _compare(
    model: nn.Module,
    engine: GradEngine,
    records: tuple[torch.Tensor, torch.Tensor],
    references: Sequence[torch.Tensor],
    max_norm: float,
    contribution: Contribution,
    tolerance: float = GRADIENT_TOLERANCE,
) -> None:
    """Compare each record alone, then all of them together; see ``certificate``."""
    (x, y), k, layers = records, len(references), parameter_layers(model)
    own = _own_tensors(model)
    bounds = [binding_norm(_parts(model, g), layers, max_norm) for g in references]
    for i, (reference, bound) in enumerate(zip(references, bounds, strict=True)):
        one = x[i : i + 1], y[i : i + 1]
        for c in dict.fromkeys((max_norm, bound)):
            got = _call(model, engine, engine.clipped_sum, *one, c).total
            _check_norm(model, engine, got, c, max_norm)
            _check_equal(model, engine, got, [_clip(model, reference, c, contribution)], tolerance)
    got = _call(model, engine, engine.clipped_sum, x[:k], y[:k], math.inf).total
    _check_equal(model, engine, got, references, tolerance)
    if k > 1:
        least = min(bounds)
        got = _call(model, engine, engine.clipped_sum, x[:k], y[:k], least).total
        expected = [_clip(model, reference, least, contribution) for reference in references]
        _check_equal(model, engine, got, expected, tolerance)
    if _own_tensors(model) != own:
        raise ProtectionError(
            f"gradient engine {engine.name!r} leaves other tensors in the model than its own "
            f"parameters, so that steps would not move what it computes with. "
            f"{_advice(model, engine)}"
        )


def _own_tensors(model: nn.Module) -> list[int]:
    """Which tensors the modules hold as parameters, by identity."""
    return [id(p) for module in model.modules() for p in module.parameters(recurse=False)]


def _parts(model: nn.Module, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.split(gradient, [p.numel() for p in model.parameters()])


def _clip(
    model: nn.Module, gradient: torch.Tensor, max_norm: float, contribution: Contribution
) -> torch.Tensor:
    # In float64, so that the norms are not those of the engine's own arithmetic.
    parts = _parts(model, gradient.double())
    squares = torch.stack([part.square().sum() for part in parts]).unsqueeze(1)
    factors = contribution.clipping.factors(squares, parameter_layers(model), max_norm)
    return torch.cat([part * factor for part, factor in zip(parts, factors, strict=True)])


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
    except (
        RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError, LookupError,
    ) as error:  # fmt: skip
        raise ProtectionError(
            f"gradient engine {engine.name!r} fails on this model ({type(error).__name__}: "
            f"{error}). {_advice(model, engine)}"
        ) from error


def _check_norm(
    model: nn.Module, engine: GradEngine, got: torch.Tensor, c: float, max_norm: float
) -> None:
    norm = float(got.double().norm())
    if norm <= c * (1 + NORM_TOLERANCE):
        return
    asked = f"algorithm.max_grad_norm={max_norm:g} is promised"
    if c != max_norm:
        asked = (
            f"a clip norm of {c:.6g} was asked for, as a probe; {asked}, which the record that "
            "was tried does not reach"
        )
    raise ProtectionError(
        f"gradient engine {engine.name!r} lets one record contribute {norm:.6g} where {asked}. "
        f"{_advice(model, engine)}"
    )


def _check_equal(
    model: nn.Module,
    engine: GradEngine,
    got: torch.Tensor,
    summands: Sequence[torch.Tensor],
    tolerance: float,
) -> None:
    """Compare with the sum of ``summands``, up to a share of their norms: they may cancel out."""
    gap = got.double() - torch.stack([one.double() for one in summands]).sum(0)
    scale = math.fsum(float(one.double().norm()) for one in summands)
    if float(gap.norm()) <= tolerance * scale + 1e-12:
        return
    worst = max(
        zip(model.named_parameters(), _parts(model, gap), strict=True),
        key=lambda item: float(item[1].norm()),
    )[0][0]
    raise ProtectionError(
        f"gradient engine {engine.name!r} differs from the one-by-one gradients by "
        f"{float(gap.norm()) / max(scale, 1e-300):.2g} of their norm, most at parameter "
        f"{worst!r}. {_advice(model, engine)}"
    )


def _incomparable(records: str, max_norm: float) -> NothingToCompare:
    return NothingToCompare(
        f"the model's weights are finite, but {records} have gradients that are NaN, infinite or "
        f"zero, so that nothing shows whether a record contributes algorithm.max_grad_norm="
        f"{max_norm:g} at most; nothing was trained. Look for a layer that overflows or divides "
        "by zero, and lower federation.lr if the weights have grown."
    )


def _advice(model: nn.Module, engine: GradEngine) -> str:
    faults = per_sample_faults(model)
    if engine.name == "loop":
        way_out = "Change the model: see fedprivacy.models for layers that are safe."
    elif faults:
        way_out = "Remove them from the model, or use algorithm.grad_engine=loop."
    else:
        way_out = "Use algorithm.grad_engine=loop."
    return (f"Suspects: {'; '.join(faults)}. " if faults else "") + way_out

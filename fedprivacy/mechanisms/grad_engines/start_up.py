"""The engine that trains a model: what was asked for, or the first that passes the start-up probe.

``auto`` begins with what is fastest for the architecture and probes it (see ``certificate``): its
clipped sums of a few made-up records must be those of the one-by-one loop. An engine that fails on
this model, or clips it wrongly, is told of and the next one is probed; the loop, which can do
least harm, comes last. No clock decides: it would choose differently on a busy machine, and two
runs of a cell would differ in their last bits.
"""

from __future__ import annotations

import logging
from functools import partial

import torch
from torch import nn

from fedprivacy.errors import ProtectionError
from fedprivacy.mechanisms.grad_engines.base import GradEngine
from fedprivacy.mechanisms.grad_engines.certificate import (
    NothingToCompare,
    ensure_certified,
    probe_key,
)
from fedprivacy.mechanisms.grad_engines.choose import build_engine, fastest_engine
from fedprivacy.mechanisms.grad_engines.clipping import PLAIN, Contribution
from fedprivacy.training.losses import Loss

log = logging.getLogger(__name__)

_FALL_BACK = ("bookkeeping", "vmap", "loop")
_refused: set[tuple[object, ...]] = set()


def probed_engine(
    name: str,
    model: nn.Module,
    loss: Loss,
    x: torch.Tensor,
    y: torch.Tensor,
    bound: float,
    contribution: Contribution = PLAIN,
    physical_batch: int | None = None,
) -> GradEngine:
    """The engine ``name`` over a model, certified; ``auto``: the first of its candidates that is.

    Args:
        name: one of ``choose.CHOICES``.
        model: on the device of ``x``; left as found.
        loss: mean loss over a batch.
        x: ``(n, ...)`` records, of which only shapes, dtype and device are looked at.
        y: their targets.
        bound: on the norm of one record's contribution.
        contribution: the clipping rule and the views of a record.
        physical_batch: records at a time; None: what suits the engine.

    Raises:
        ConfigError: unknown name.
        ProtectionError: the engine, or with ``auto`` every candidate, fails the probe.
    """
    *spared, last = _candidates(name, model, x)
    for choice in spared:
        engine = build_engine(choice, model, loss, contribution, physical_batch, x.shape[1:])
        key = partial(probe_key, model, loss, x, engine, bound, contribution)
        if _refused and key() in _refused:
            continue
        try:
            ensure_certified(model, loss, x, y, engine, bound, contribution)
        except NothingToCompare:
            raise
        except ProtectionError as refusal:
            _refused.add(key())
            log.warning("algorithm.grad_engine=auto passes over %r: %s", engine.name, refusal)
            continue
        return engine
    engine = build_engine(last, model, loss, contribution, physical_batch, x.shape[1:])
    ensure_certified(model, loss, x, y, engine, bound, contribution)
    return engine


def _candidates(name: str, model: nn.Module, x: torch.Tensor) -> list[str]:
    """What to probe; ``auto`` itself comes first, as on a GPU it records the engine it chooses."""
    first = fastest_engine(model, x.shape[1:]) if name == "auto" else name
    return [name, *(_FALL_BACK[_FALL_BACK.index(first) + 1 :] if name == "auto" else ())]

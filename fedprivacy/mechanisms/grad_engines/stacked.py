"""Clipped sums of many sites at once, each over its own records."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import nn
from torch.func import grad_and_value, vmap

from fedprivacy.mechanisms.grad_engines.base import ClippedSum
from fedprivacy.mechanisms.grad_engines.clipping import FLAT, Bound, Clipping, parameter_layers
from fedprivacy.mechanisms.grad_engines.vmap import chunk_for
from fedprivacy.training.stacked.chain import ChainGradients, LayerUse, add_weighted
from fedprivacy.training.stacked.functional import FunctionalGradients, Parameters
from fedprivacy.training.stacked.gradients import StackedGradients
from fedprivacy.training.stacked.precision import model_precision
from fedprivacy.training.stacked.recorded import StepRecordings
from fedprivacy.training.stacked.records import StackedBatch, StackedRecords
from fedprivacy.training.substitution import call_with

_CHAIN_ROWS = {"cpu": 4096, "cuda": 1 << 17}
_OTHER_SITE = 0.5
_CUDA_RECORDS, _CUDA_SCALARS = 1024, 1 << 28


class StackedSums(Protocol):
    """Sums each site's clipped per-record gradients; adds no noise.

    Attributes:
        recordings: of the gradients that are summed.
        kind: what tells these sums from others over the same gradients.
    """

    recordings: StepRecordings
    kind: tuple[object, ...]

    def clipped(
        self, weights: torch.Tensor, batch: StackedBatch, max_norm: Bound, total: torch.Tensor
    ) -> torch.Tensor:
        """Write ``sum_i factor_i g_i`` of every site's own records into ``total`` ``(k, d)``.

        Args:
            weights: ``(k, d)`` float32.
            batch: of the k sites; padded rows count for nothing.
            max_norm: bound > 0 on the norm of one record's contribution.
            total: overwritten.

        Returns:
            ``(k,)`` sums of the records' losses.
        """
        ...


class ChainSums:
    """By book-keeping, see ``bookkeeping``: all-Linear networks, matrix products over sites.

    Args:
        gradients: of the sites' model.
        rule: the clipping rule.
        rows: records at a time, all sites together; None: what suits the device.
    """

    def __init__(
        self, gradients: ChainGradients, rule: Clipping = FLAT, rows: int | None = None
    ) -> None:
        self._gradients, self._rule, self._rows = gradients, rule, rows
        self.recordings = gradients.recordings
        self.kind: tuple[object, ...] = (rule.name, rows)

    def clipped(
        self, weights: torch.Tensor, batch: StackedBatch, max_norm: Bound, total: torch.Tensor
    ) -> torch.Tensor:
        """See ``StackedSums.clipped``."""
        total.zero_()
        summed = weights.new_zeros(len(weights))
        for part in _parts(batch, self._rows or _CHAIN_ROWS[weights.device.type]):
            losses, uses = self._gradients.uses(weights, part)
            squares = torch.stack([_squares(use) for use in uses])
            factors = _factors(self._rule, squares, range(len(uses)), max_norm, part.there)
            for use, factor in zip(uses, factors, strict=True):
                add_weighted(total, use, factor)
            summed += (losses * part.there).sum(1)
        return summed


class FunctionalSums:
    """By per-record gradients of ``torch.func``, mapped over records and sites.

    Args:
        gradients: of the sites' model.
        rule: the clipping rule.
        rows: records at a time, all sites together; None: what suits the device.
    """

    def __init__(
        self, gradients: FunctionalGradients, rule: Clipping = FLAT, rows: int | None = None
    ) -> None:
        self._gradients, self._rule, self._rows = gradients, rule, rows
        self.recordings = gradients.recordings
        self.kind: tuple[object, ...] = (rule.name, rows)
        self._layers = parameter_layers(gradients.model)
        self._per_record = vmap(vmap(grad_and_value(self._loss_of_one), in_dims=(None, 0, 0)))

    def _loss_of_one(
        self, parameters: Parameters, x: torch.Tensor, y: torch.Tensor
    ) -> torch.Tensor:
        output = call_with(self._gradients.model, parameters, x.unsqueeze(0))
        return self._gradients.loss(output.to(x.dtype), y.unsqueeze(0))

    def clipped(
        self, weights: torch.Tensor, batch: StackedBatch, max_norm: Bound, total: torch.Tensor
    ) -> torch.Tensor:
        """See ``StackedSums.clipped``."""
        total.zero_()
        summed = weights.new_zeros(len(weights))
        parameters = self._gradients.parameters(weights)
        parts = torch.split(total, [p[0].numel() for p in parameters.values()], dim=1)
        for part in _parts(batch, self._rows or self._at_once(weights, batch)):
            with model_precision(self._gradients.precision, weights.device):
                by_name, losses = self._per_record(parameters, part.x, part.y)
            gradients = [by_name[name].flatten(2) for name in parameters]
            squares = torch.stack([g.square().sum(2) for g in gradients])
            factors = _factors(self._rule, squares, self._layers, max_norm, part.there)
            for into, gradient, factor in zip(parts, gradients, factors, strict=True):
                into.add_(torch.bmm(factor.unsqueeze(1), gradient).squeeze(1))
            summed += (losses * part.there).sum(1)
        return summed

    def _at_once(self, weights: torch.Tensor, batch: StackedBatch) -> int:
        if weights.device.type == "cpu":
            return chunk_for(math.prod(batch.x.shape[2:]))
        return max(1, min(_CUDA_RECORDS, _CUDA_SCALARS // weights.shape[1]))


def stacked_sums(
    gradients: StackedGradients, rule: Clipping = FLAT, rows: int | None = None
) -> StackedSums:
    """Clipped sums in the way that suits the model; arguments as of ``ChainSums``."""
    if isinstance(gradients, ChainGradients):
        return ChainSums(gradients, rule, rows)
    return FunctionalSums(gradients, rule, rows)


def _parts(batch: StackedBatch, rows: int) -> list[StackedBatch]:
    """The batch in pieces of about ``rows`` records, none if it is empty."""
    sites, width = batch.there.shape
    size = max(1, rows // sites)
    return [batch.part(start, start + size) for start in range(0, width, size)]


def _squares(use: LayerUse) -> torch.Tensor:
    """``(k, B)`` squared norms of a layer's part of each record's gradient."""
    biased = use.layer.bias is not None
    return use.delta.square().sum(2) * (use.input.square().sum(2) + biased)


def _factors(
    rule: Clipping,
    squares: torch.Tensor,
    layers: range | tuple[int, ...],
    max_norm: Bound,
    there: torch.Tensor,
) -> torch.Tensor:
    """Factors ``(parts, k, B)`` of each part of each record's gradient; 0 for padding."""
    factors = rule.factors(squares.flatten(1), layers, max_norm).view(squares.shape)
    return factors.masked_fill(~there, 0.0)


class StackedEngine:
    """The stacked sums as a ``GradEngine``, for the start-up certificate to try.

    Its batch is one site's, behind a row of padding, beside a site of other weights without
    records: what leaks from one site into another, comes from padding, or takes a row's number for
    a site's, changes the sum.

    Args:
        model: whose weights the site has.
        sums: over that model.
        precision: of the model, for the name that the certificate is remembered by.
    """

    def __init__(self, model: nn.Module, sums: StackedSums, precision: str = "float32") -> None:
        self.name = "stacked" if precision == "float32" else f"stacked {precision}"
        self._model, self._sums = model, sums

    def clipped_sum(self, x: torch.Tensor, y: torch.Tensor, max_norm: Bound) -> ClippedSum:
        """See ``GradEngine.clipped_sum``."""
        flat = torch.cat([p.detach().reshape(-1) for p in self._model.parameters()])
        weights = torch.stack([flat, _OTHER_SITE * flat])
        records = StackedRecords.of([(x, y), (x[:0], y[:0])])
        index = torch.full((2, len(x) + 1), records.padding, device=x.device)
        index[0, 1:] = torch.arange(len(x), device=x.device)
        total = torch.empty_like(weights)
        losses = self._sums.clipped(weights, records.batch(index), max_norm, total)
        return ClippedSum(total.sum(0), losses.sum())

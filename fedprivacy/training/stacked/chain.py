"""All-Linear networks of many sites by batched matrix products."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.func import vmap

from fedprivacy.training.losses import Loss
from fedprivacy.training.stacked.precision import model_precision
from fedprivacy.training.stacked.recorded import StepRecordings
from fedprivacy.training.stacked.records import StackedBatch

# Of every scalar by itself, so that they do the same to ``(K, B, features)``.
_ELEMENTWISE = frozenset(
    {
        nn.Identity,
        nn.ReLU,
        nn.LeakyReLU,
        nn.ELU,
        nn.GELU,
        nn.SiLU,
        nn.Softplus,
        nn.Tanh,
        nn.Sigmoid,
    }
)


@dataclass(frozen=True)
class ChainLayer:
    """Where a Linear layer's parameters are in the flat vector.

    Attributes:
        shape: ``(out, in)`` of the weight.
        weight: first scalar of the weight.
        bias: first scalar of the bias; None without one.
    """

    shape: tuple[int, int]
    weight: int
    bias: int | None

    def weight_of(self, flat: torch.Tensor) -> torch.Tensor:
        """View ``(k, out, in)`` of the weights in ``(k, d)``."""
        size = self.shape[0] * self.shape[1]
        return flat[:, self.weight : self.weight + size].view(-1, *self.shape)

    def bias_of(self, flat: torch.Tensor) -> torch.Tensor:
        """View ``(k, out)`` of the biases in ``(k, d)``."""
        assert self.bias is not None
        return flat[:, self.bias : self.bias + self.shape[0]]


@dataclass(frozen=True)
class LayerUse:
    """One application of a layer.

    Attributes:
        layer: which.
        input: ``(k, B, in)`` float32.
        delta: ``(k, B, out)`` float32, derivative of each record's own loss by the output.
    """

    layer: ChainLayer
    input: torch.Tensor
    delta: torch.Tensor


Chain = tuple[ChainLayer | nn.Module, ...]


def linear_chain(model: nn.Module) -> Chain | None:
    """The layers in the order in which a record passes them, if there is nothing else to it.

    Linear layers, each used once, with element-wise functions between them; None for any other
    model. Found by tracing the model's forward.
    """
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return None
    whole = nn.Sequential(model)  # a layer by itself is then traced as one, too
    try:
        graph = fx.symbolic_trace(whole).graph
    except Exception:  # a forward that cannot be traced can fail in any way
        return None
    used = _modules_in_a_row(whole, graph)
    if used is None:
        return None
    starts, start = dict[int, int](), 0
    for parameter in model.parameters():
        starts[id(parameter)] = start
        start += parameter.numel()
    chain: list[ChainLayer | nn.Module] = []
    for module in used:
        if type(module) is nn.Linear:
            bias = None if module.bias is None else starts.pop(id(module.bias), -1)
            place = starts.pop(id(module.weight), -1)
            if -1 in (place, bias):
                return None
            chain.append(ChainLayer((module.out_features, module.in_features), place, bias))
        elif type(module) in _ELEMENTWISE and not getattr(module, "inplace", False):
            chain.append(module)
        else:
            return None
    return tuple(chain) if chain and not starts else None


def _modules_in_a_row(model: nn.Module, graph: fx.Graph) -> list[nn.Module] | None:
    """What each node calls, if the nodes are modules that feed each other one by one."""
    first, *middle, last = graph.nodes
    before, found = first, list[nn.Module]()
    for node in middle:
        if node.op != "call_module" or node.args != (before,) or node.kwargs:
            return None
        found.append(model.get_submodule(str(node.target)))
        before = node
    ends = first.op == "placeholder" and last.op == "output" and last.args == (before,)
    return found if ends else None


class ChainGradients:
    """Gradients of many sites' all-Linear networks; no record's gradient is ever made.

    With ``a`` a layer's input and ``delta`` the derivative of a record's loss by its output, a
    record's gradient is the outer product of delta and a, and a weighted sum of them over a
    site's records is ``(factors * delta)^T a``.

    Args:
        chain: see ``linear_chain``.
        loss: mean loss over a batch.
        precision: see ``precision.model_precision``.
    """

    def __init__(self, chain: Chain, loss: Loss, precision: str = "float32") -> None:
        self.layers = [layer for layer in chain if isinstance(layer, ChainLayer)]
        self._chain, self._precision = chain, precision
        self.recordings = StepRecordings()
        self._loss_each = vmap(lambda out, y: loss(out.unsqueeze(0), y.unsqueeze(0)))

    def mean(self, weights: torch.Tensor, batch: StackedBatch, total: torch.Tensor) -> torch.Tensor:
        """Write the gradient of each site's mean loss into ``total`` ``(k, d)``.

        Returns:
            ``(k,)`` the mean losses.
        """
        share = batch.shares(weights.dtype)
        losses, uses = self.uses(weights, batch)
        total.zero_()
        for use in uses:
            add_weighted(total, use, share)
        return (losses * share).sum(1)

    def uses(
        self, weights: torch.Tensor, batch: StackedBatch
    ) -> tuple[torch.Tensor, list[LayerUse]]:
        """Losses ``(k, B)`` of all rows, padding included, and what each layer saw.

        Args:
            weights: ``(k, d)`` float32.
            batch: of k sites.
        """
        inputs, outputs, a = [], [], batch.x
        with torch.enable_grad(), model_precision(self._precision, a.device):
            for layer in self._chain:
                if isinstance(layer, ChainLayer):
                    inputs.append(a.detach())
                    a = _apply(layer, weights, a)
                    # Weights need no gradient here, so the first output starts the graph.
                    a = a if a.requires_grad else a.requires_grad_()
                    outputs.append(a)
                else:
                    a = layer(a)
        with torch.enable_grad():
            logits = a.to(weights.dtype).flatten(0, 1)
            losses = self._loss_each(logits, batch.y.flatten(0, 1))
            deltas = torch.autograd.grad(losses.sum(), outputs)
        uses = [
            LayerUse(layer, seen.to(weights.dtype), delta.to(weights.dtype))
            for layer, seen, delta in zip(self.layers, inputs, deltas, strict=True)
        ]
        return losses.detach().view(batch.there.shape), uses


def _apply(layer: ChainLayer, weights: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    across = layer.weight_of(weights).transpose(1, 2)
    if layer.bias is None:
        return torch.bmm(a, across)
    return torch.baddbmm(layer.bias_of(weights).unsqueeze(1), a, across)


def add_weighted(total: torch.Tensor, use: LayerUse, factors: torch.Tensor) -> None:
    """Add ``sum_i factors_i g_i`` of a layer's part of the gradients to ``total`` ``(k, d)``.

    Args:
        total: one row for each site.
        use: what the layer saw.
        factors: ``(k, B)``, 0 for padding.
    """
    share = use.delta * factors.unsqueeze(2)
    use.layer.weight_of(total).baddbmm_(share.transpose(1, 2), use.input)
    if use.layer.bias is not None:
        use.layer.bias_of(total).add_(share.sum(1))

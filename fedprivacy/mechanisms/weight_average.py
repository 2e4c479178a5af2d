"""Exponential average of the weights over the steps of a round."""

from __future__ import annotations

import torch


class WeightAverage:
    """``sum_t a^(T - t) w_t / sum_t a^(T - t)`` over the weights w_1..w_T after each step.

    A function of noisy steps alone, so it costs no privacy (post-processing). It lives within a
    round of a site: each round starts from the sites' average, whose weights have nothing to do
    with the site's own earlier ones, and a site keeps nothing between rounds. Divided by the sum of
    the factors, it is not drawn towards the weights that the round began with.

    Args:
        decay: a, from 0 (the last weights alone) to below 1.
        weights: ``(d,)``, changed in place by training; ``put`` writes the average into it.
    """

    def __init__(self, decay: float, weights: torch.Tensor) -> None:
        self._decay, self._weights, self._total = decay, weights, 0.0
        self._sum = torch.zeros_like(weights) if decay else weights

    def take(self) -> None:
        """Count the present weights in."""
        if self._decay:
            self._sum.mul_(self._decay).add_(self._weights)
            self._total = self._decay * self._total + 1

    def put(self) -> None:
        """Replace the weights by the average of those taken."""
        if self._total:
            self._weights.copy_(self._sum / self._total)

"""Records in the run's own messages: what the rows of a first linear layer's updates give away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fedprivacy.audit.reconstruction import RECOGNISED_ERROR

ABOUT = (
    "The updates of one site as the run sent them, of many records and steps. Each neuron of a "
    "first linear layer gives the record that alone moved it; one that several moved, a mixture."
)


@dataclass(frozen=True)
class InMessages:
    """Records of a site that its messages show.

    Attributes:
        records: that the site trained on.
        recognised: those to which some neuron's quotient comes within 10 %.
        least_error: the least relative L2 error of all.
        messages: number of updates looked at.
    """

    records: int
    recognised: int
    least_error: float
    messages: int

    def to_json(self) -> dict[str, Any]:
        """Strict JSON."""
        return {
            "records": self.records,
            "recognised": self.recognised,
            "recognised_means": f"relative error below {RECOGNISED_ERROR:g}",
            "least_error": min(self.least_error, 1e9),
            "messages": self.messages,
            "about": ABOUT,
        }


def records_in_messages(
    updates: Sequence[torch.Tensor], rows: int, columns: int, records: torch.Tensor
) -> InMessages:
    """Look for a site's records among the quotients of its updates.

    A neuron i that one record x of one step activated moves by ``dW_i = db_i x`` (Phong et al.
    2018, section III; as a passive attack on larger updates Boenisch et al. 2023, arXiv 2112.02918,
    section 4), whatever else the update holds.

    Args:
        updates: ``(d,)`` each, the layer's weight and then its bias first.
        rows: outputs of the layer.
        columns: its inputs.
        records: ``(n, columns)`` that the site trained on.
    """
    originals = records.double()
    norms = originals.norm(dim=1).clamp_min(1e-30)
    least = torch.full((len(originals),), torch.inf, dtype=torch.float64)
    for update in updates:
        weight = update[: rows * columns].double().view(rows, columns)
        bias = update[rows * columns : rows * (columns + 1)].double()
        moved = bias != 0
        if moved.any():
            quotients = weight[moved] / bias[moved, None]
            errors = torch.cdist(originals, quotients).min(dim=1).values / norms
            least = torch.minimum(least, errors)
    return InMessages(
        records=len(originals),
        recognised=int((least < RECOGNISED_ERROR).sum()),
        least_error=float(least.min()) if len(least) else float("inf"),
        messages=len(updates),
    )

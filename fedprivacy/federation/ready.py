"""Training that was done before the site that it belongs to was asked for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fedprivacy.training.task import LocalTask, Trained


@dataclass(frozen=True)
class ReadyTraining:
    """One site's training of one round.

    Attributes:
        task: what was trained; its model does not hold the outcome.
        start: ``(d,)`` weights on the CPU that the site trained from.
        weights: ``(d,)`` float32 weights after training, on the CPU.
        trained: as ``Mechanism.train`` reports it.
    """

    task: LocalTask
    start: torch.Tensor
    weights: torch.Tensor
    trained: Trained


class ReadyRound:
    """The sites' training of the present round, by partition; each is handed out once."""

    def __init__(self) -> None:
        self._found: dict[int, ReadyTraining | Exception] = {}

    def fill(self, found: dict[int, ReadyTraining | Exception]) -> None:
        """Put a round's training in the place of the last one's; or why it failed, by site."""
        self._found = found

    def take(
        self, partition: int, round_number: int, start: torch.Tensor, clip: float | None
    ) -> ReadyTraining | None:
        """What is ready for exactly this instruction; None where nothing is.

        Raises:
            Exception: the one that training the site raised.
        """
        found = self._found.pop(partition, None)
        if isinstance(found, Exception):
            raise found
        if found is None or found.task.streams.round_number != round_number:
            return None
        same = found.task.clip == clip and torch.equal(found.start, start)
        return found if same else None

"""The Flower strategy: FedAvg over protected updates, in an order that never varies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fedprivacy.errors import ClientFailure, TrainingCollapsed
from fedprivacy.federation.messages import (
    ARRAYS,
    METRICS,
    decode_matrix,
    decode_vector,
    encode_vector,
    instruction,
    read_report,
)
from fedprivacy.federation.scoring import Evidence, RoundScore, score_round

Listener = Callable[["RoundOutcome"], None]


@dataclass(frozen=True)
class RoundOutcome:
    """What the server knows after a round.

    Attributes:
        round: 1, 2, ...
        steps: local steps per site, the largest over sites.
        loss: mean of the sites' training losses; None where they do not report it.
        update_norm: L2 norm of the averaged update.
        noise_norm: expected L2 norm of the noise in the averaged update.
        scores: held-out scores; None in rounds that are not evaluated.
        events: ledger events of the round, as JSON values.
    """

    round: int
    steps: int
    loss: float | None
    update_norm: float
    noise_norm: float
    scores: RoundScore | None
    events: tuple[dict[str, Any], ...]


class SiteStrategy(FedAvg):
    """FedAvg over all sites, every round.

    Sites send updates, never weights. Replies arrive in the order of the sites' indices (see
    ``StrictGrid``) and are summed in float64, so the average does not depend on who was first.

    Args:
        nodes: node ids, in any order.
        initial: ``(d,)`` float32 weights.
        rounds: number of rounds.
        local: keep one model per site and never average (the baseline without federation).
        evaluate_every: see ``FederationConf``.
        metric: name of the score.
        listener: called after every round; may raise to end the run.
    """

    def __init__(
        self,
        nodes: Sequence[int],
        initial: torch.Tensor,
        *,
        rounds: int,
        local: bool,
        evaluate_every: int,
        metric: str,
        listener: Listener | None = None,
    ) -> None:
        super().__init__(min_train_nodes=len(nodes), min_evaluate_nodes=len(nodes))
        self.nodes, self.rounds, self.local = list(nodes), rounds, local
        self.evaluate_every, self.metric, self.listener = evaluate_every, metric, listener
        self.weights = dict.fromkeys(self.nodes, initial)
        self.history: list[RoundOutcome] = []
        self.released: list[dict[str, Any]] = []
        self._trained: RoundOutcome | None = None

    def summary(self) -> None:
        """Say nothing: the cell's own log tells what runs."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One training message to every site."""
        return self._to_all(server_round, MessageType.TRAIN)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One evaluation message to every site, in the rounds that are evaluated."""
        due = self.evaluate_every and server_round % self.evaluate_every == 0
        if not due and server_round != self.rounds:
            return []
        return self._to_all(server_round, MessageType.EVALUATE)

    def _to_all(self, server_round: int, kind: str) -> list[Message]:
        shared: dict[int, RecordDict] = {}
        messages = []
        for node in self.nodes:
            weights = self.weights[node]
            if id(weights) not in shared:
                shared[id(weights)] = instruction(weights, server_round)
            messages.append(Message(shared[id(weights)], dst_node_id=node, message_type=kind))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the sites' updates and add them to the weights.

        Raises:
            TrainingCollapsed: a site's training, or the sum, became non-finite; nothing is
                averaged. What other sites sent in this round stays in ``released``.
        """
        answers = [(reply, read_report(reply)) for reply in replies]
        reports = [report for _, report in answers]
        events = tuple(report["event"] for report in reports if report["status"] == "ok")
        self.released.extend(events)
        for report in reports:
            if report["status"] == "collapsed":
                raise TrainingCollapsed(report["reason"], server_round, report["site"])
        updates = {reply.metadata.src_node_id: _update(reply) for reply, _ in answers}
        shares = _shares([reply for reply, _ in answers])
        mean = self._apply(updates, shares, server_round)
        losses = [report["loss"] for report in reports if "loss" in report]
        noise = sum((w * r["noise_norm"]) ** 2 for w, r in zip(shares, reports, strict=True))
        self._trained = RoundOutcome(
            round=server_round,
            steps=max(report["steps"] for report in reports),
            loss=sum(losses) / len(losses) if losses else None,
            update_norm=float(mean.norm()),
            noise_norm=noise**0.5,
            scores=None,
            events=events,
        )
        self._finish(None if self._is_evaluated(server_round) else self._trained)
        return None, None

    def _apply(
        self, updates: dict[int, torch.Tensor], shares: Sequence[float], server_round: int
    ) -> torch.Tensor:
        mean = torch.zeros_like(next(iter(updates.values())), dtype=torch.float64)
        for share, update in zip(shares, updates.values(), strict=True):
            if update.numel() != mean.numel():
                raise ClientFailure(
                    f"malformed update of {update.numel()} scalars, expected {mean.numel()}"
                )
            mean += share * update.double()
        if not bool(torch.isfinite(mean).all()):
            raise TrainingCollapsed("the averaged update is non-finite", server_round, "server")
        if self.local:
            self.weights = {node: self.weights[node] + updates[node] for node in self.nodes}
        else:
            common = self.weights[self.nodes[0]] + mean.float()
            self.weights = dict.fromkeys(self.nodes, common)
        return mean

    def _is_evaluated(self, server_round: int) -> bool:
        due = self.evaluate_every and server_round % self.evaluate_every == 0
        return bool(due) or server_round == self.rounds

    def _finish(self, outcome: RoundOutcome | None) -> None:
        if outcome is None:
            return
        self.history.append(outcome)
        if self.listener is not None:
            self.listener(outcome)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Score the round from the evidence that sites sent."""
        answers = list(replies)
        if not answers or self._trained is None:
            return None
        evidence = [_evidence(reply) for reply in answers]
        scores = score_round(
            self.metric, evidence, local=self.local, final=server_round == self.rounds
        )
        done = RoundOutcome(**{**self._trained.__dict__, "scores": scores})
        self._finish(done)
        return None

    def final_arrays(self) -> ArrayRecord:
        """Weights after the last round: one vector, or one per site when nothing is averaged."""
        if not self.local:
            return ArrayRecord({"vector": encode_vector(self.weights[self.nodes[0]])})
        return ArrayRecord({str(n): encode_vector(self.weights[n]) for n in self.nodes})


def _update(reply: Message) -> torch.Tensor:
    try:
        return decode_vector(reply.content[ARRAYS]["vector"])  # type: ignore[arg-type, index]
    except KeyError as error:
        raise ClientFailure(f"malformed reply without an update: {error!r}") from error


def _shares(replies: Sequence[Message]) -> list[float]:
    counts = [float(reply.content[METRICS]["num-examples"]) for reply in replies]  # type: ignore[arg-type, call-overload]
    return [count / sum(counts) for count in counts]


def _evidence(reply: Message) -> Evidence:
    report = read_report(reply)
    if report["status"] != "ok":
        raise ClientFailure(f"site {report['site']} could not evaluate: {report}")
    arrays = reply.content[ARRAYS]
    return Evidence(
        rows=decode_matrix(arrays["evidence"]),  # type: ignore[arg-type, index]
        labels=decode_matrix(arrays["labels"])[:, 0],  # type: ignore[arg-type, index]
        parts=tuple((str(name), int(count)) for name, count in report["parts"]),
    )

"""The Flower strategy: FedAvg over protected updates, in an order that never varies."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fedprivacy.accounting.events import Event
from fedprivacy.errors import ClientFailure, TrainingCollapsed
from fedprivacy.federation.answers import (
    CollapseAnswer,
    TrainAnswer,
    read_evidence,
    read_report,
    read_training,
    told_events,
)
from fedprivacy.federation.messages import encode_vector, instruction
from fedprivacy.federation.scoring import RoundScore, score_round
from fedprivacy.finite import all_finite
from fedprivacy.mechanisms.central_gaussian import Average
from fedprivacy.mechanisms.server import SERVER_SITE, ServerSide
from fedprivacy.training.randomness import Streams

Listener = Callable[["RoundOutcome"], None]


@dataclass(frozen=True)
class RoundOutcome:
    """What the server knows after a round.

    Attributes:
        round: 1, 2, ...
        steps: local steps per site, the largest over sites.
        loss: mean of the sites' training losses; None where they do not report it.
        update_norm: L2 norm of the averaged update.
        noise_norm: expected L2 norm of the noise in the averaged update; None where the sites do
            not report theirs.
        scores: held-out scores; None in rounds that are not evaluated.
        events: ledger events of the round.
        what_if_mu: by site, where sites report it; see ``mechanisms.base.Protected``.
    """

    round: int
    steps: int
    loss: float | None
    update_norm: float
    noise_norm: float | None
    scores: RoundScore | None
    events: tuple[Event, ...]
    what_if_mu: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Exchange:
    """What the server sees in a round, before it goes on.

    Attributes:
        round: 1, 2, ...
        protected: whether the schedule had the protection on.
        sent: weights ``(d,)`` that each site started from.
        received: each site's update ``(d,)``, as it left the site.
        average: ``(d,)`` float32 change of the global model, as the server publishes it; without
            federation nothing is averaged and this is no one's model.
    """

    round: int
    protected: bool
    sent: Mapping[str, torch.Tensor]
    received: Mapping[str, torch.Tensor]
    average: torch.Tensor


class SiteStrategy(FedAvg):  # type: ignore[misc]
    """FedAvg over all sites, every round.

    Sites send updates, never weights. Replies arrive in the order of the sites' indices (see
    ``StrictGrid``) and are summed in float64, so the average does not depend on who was first.

    Args:
        nodes: node ids, in any order.
        sites: names of the sites, in the order of their indices.
        initial: ``(d,)`` float32 weights.
        rounds: number of rounds.
        scored: the rounds after which held-out records are scored.
        local: keep one model per site and never average (the baseline without federation).
        metric: name of the score.
        listener: called after every round; may raise to end the run.
        observer: shown every exchange of a round.
        server: what the cell's mechanism does at the server.
        strengths: of the protection in each round; None where it is off.
        streams: the server's own random streams in a round.
    """

    def __init__(
        self,
        nodes: Sequence[int],
        sites: Sequence[str],
        initial: torch.Tensor,
        *,
        rounds: int,
        scored: frozenset[int],
        local: bool,
        metric: str,
        listener: Listener | None = None,
        observer: Callable[[Exchange], None] | None = None,
        server: ServerSide | None = None,
        strengths: Sequence[float | None] | None = None,
        streams: Callable[[int], Streams] | None = None,
    ) -> None:
        super().__init__(min_train_nodes=len(nodes), min_evaluate_nodes=len(nodes))
        self.nodes, self.sites, self.rounds, self.local = list(nodes), sites, rounds, local
        self.scored, self.metric = scored, metric
        self.listener, self.observer = listener, observer
        self.weights = dict.fromkeys(self.nodes, initial)
        self.initial, self.server = initial, server or ServerSide()
        self.strengths = strengths or (None,) * rounds
        self.streams = streams or (lambda number: Streams(0, "secret", number, SERVER_SITE))
        self.clip = self.server.first_clip
        self.history: list[RoundOutcome] = []
        self.released: list[Event] = []
        self.evaluate_s = 0.0
        self._asked_at = 0.0
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
        """One evaluation message to every site, in the rounds that are scored."""
        self._asked_at = time.perf_counter()
        if server_round not in self.scored:
            return []
        return self._to_all(server_round, MessageType.EVALUATE)

    def _to_all(self, server_round: int, kind: str) -> list[Message]:
        shared: dict[int, RecordDict] = {}
        messages = []
        for node in self.nodes:
            weights = self.weights[node]
            if id(weights) not in shared:
                shared[id(weights)] = instruction(weights, server_round, self.clip)
            messages.append(Message(shared[id(weights)], dst_node_id=node, message_type=kind))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the sites' updates and add them to the weights.

        Raises:
            TrainingCollapsed: a site's training, or the sum, became non-finite; nothing is
                averaged. What the sites sent in this round stays in ``released``.
            ClientFailure: a reply is malformed; carries what the others released.
        """
        size = self.weights[self.nodes[0]].numel()
        received = list(replies)
        try:
            answers = [read_training(r, size=size, round_number=server_round) for r in received]
        except ClientFailure as failure:
            failure.released = told_events(received)
            raise
        events = tuple(event for answer in answers for event in answer.events)
        self.released.extend(events)
        trained: list[TrainAnswer] = []
        for answer in answers:
            if isinstance(answer, CollapseAnswer):
                raise TrainingCollapsed(answer.reason, server_round, answer.site)
            trained.append(answer)
        # Replies come in the order of the sites; from now on so do the nodes.
        self.nodes = [answer.node for answer in trained]
        total = sum(answer.num_examples for answer in trained)
        shares = [answer.num_examples / total for answer in trained]
        average = self._average(trained, shares, server_round)
        self._show(trained, average, server_round)
        try:
            self._apply(trained, average.mean, server_round)
        except TrainingCollapsed:
            self.released.extend(self.server.news_of_collapse(events))
            raise
        losses = [answer.loss for answer in trained if answer.loss is not None]
        self._trained = RoundOutcome(
            round=server_round,
            steps=max(answer.steps for answer in trained),
            loss=sum(losses) / len(losses) if len(losses) == len(trained) else None,
            update_norm=float(average.mean.norm()),
            noise_norm=_noise_of_mean(
                shares, [answer.noise_norm for answer in trained], average.noise_norm
            ),
            scores=None,
            events=events,
            what_if_mu={
                answer.events[0].site: answer.what_if_mu
                for answer in trained
                if answer.what_if_mu is not None
            },
        )
        if server_round not in self.scored:
            self._finish(self._trained)
        return None, None

    def _average(
        self, answers: Sequence[TrainAnswer], shares: Sequence[float], server_round: int
    ) -> Average:
        """The averaged update, with the server's noise if any; moves the clip norm."""
        average = self.server.average(
            [answer.update for answer in answers],
            shares,
            [answer.signal for answer in answers],
            self.strengths[server_round - 1],
            self.clip,
            self.streams(server_round),
        )
        self.clip = average.clip
        return average

    def _show(self, answers: Sequence[TrainAnswer], average: Average, server_round: int) -> None:
        if self.observer is None:
            return
        named = [(answer.events[0].site, answer) for answer in answers]
        self.observer(
            Exchange(
                round=server_round,
                protected=self.strengths[server_round - 1] is not None,
                sent={site: self.weights[answer.node] for site, answer in named},
                received={site: answer.update for site, answer in named},
                average=average.mean.float(),
            )
        )

    def _apply(self, answers: Sequence[TrainAnswer], mean: torch.Tensor, server_round: int) -> None:
        """Add the updates, or their average, to the weights; publish the final ones."""
        if self.local:
            moved = [self.weights[answer.node] + answer.update for answer in answers]
        else:
            moved = [self.weights[self.nodes[0]] + mean.float()]
        # Finite updates may still overflow the float32 weights that they are added to.
        if not all(map(all_finite, moved)):
            raise TrainingCollapsed("the updated weights are non-finite", server_round, "server")
        if server_round == self.rounds and not self.local:
            strength, streams = self.strengths[-1], self.streams(server_round)
            moved = [self.server.publish(moved[0], self.initial, strength, streams)]
        each = moved if self.local else moved * len(answers)
        self.weights = dict(zip(self.nodes, each, strict=True))

    def _finish(self, outcome: RoundOutcome) -> None:
        self.history.append(outcome)
        if self.listener is not None:
            self.listener(outcome)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Score the round from the evidence that sites sent.

        Raises:
            TrainingCollapsed: a site's predictions became non-finite; the round itself is done.
            ClientFailure: a reply is malformed.
        """
        answers = list(replies)
        if not answers or self._trained is None:
            return None
        for report in map(read_report, answers):
            if report["status"] == "collapsed":
                self._finish(self._trained)
                raise TrainingCollapsed(str(report["reason"]), server_round, str(report["site"]))
        evidence = [read_evidence(reply) for reply in answers]
        final = server_round == self.rounds
        scores = score_round(self.metric, evidence, local=self.local, final=final)
        self.evaluate_s += time.perf_counter() - self._asked_at
        self._finish(replace(self._trained, scores=scores))
        return None

    def final_arrays(self) -> ArrayRecord:
        """Weights after the last round: ``vector``, or one by site when nothing is averaged."""
        if not self.local:
            return ArrayRecord({"vector": encode_vector(self.weights[self.nodes[0]])})
        return ArrayRecord(
            {
                site: encode_vector(self.weights[node])
                for site, node in zip(self.sites, self.nodes, strict=True)
            }
        )


def _noise_of_mean(
    shares: Sequence[float], norms: Sequence[float | None], server: float
) -> float | None:
    """Expected norm of the noise in the average: independent noises add up in squares."""
    known = [norm for norm in norms if norm is not None]
    if len(known) < len(norms):
        return None
    return math.hypot(server, *(share * norm for share, norm in zip(shares, known, strict=True)))

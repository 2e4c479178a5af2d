"""Reading what sites answered: sound values, or a ``ClientFailure`` that says what is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from flwr.app import Message

from fedprivacy.accounting.events import Event
from fedprivacy.errors import ClientFailure
from fedprivacy.federation.messages import (
    ARRAYS,
    METRICS,
    NUM_EXAMPLES,
    PARTITION,
    REPORT,
    decode_matrix,
    decode_vector,
)
from fedprivacy.federation.scoring import Evidence


@dataclass(frozen=True)
class TrainAnswer:
    """A site's answer to a training message.

    Attributes:
        node: the node that answered.
        events: what the site released, for the ledger.
        update: ``(d,)`` float32.
        num_examples: the site's weight in the average.
        steps: local optimiser steps.
        loss: mean training loss; None if the site does not report it or it is not finite.
        noise_norm: expected L2 norm of the noise in the update; None if the site does not report
            it.
        signal: noisy value for the next clip norm; None if there is none.
        what_if_mu: see ``mechanisms.base.Protected``; None if the site does not report it.
    """

    node: int
    events: tuple[Event, ...]
    update: torch.Tensor
    num_examples: float
    steps: int
    loss: float | None
    noise_norm: float | None
    signal: float | None = None
    what_if_mu: float | None = None


@dataclass(frozen=True)
class CollapseAnswer:
    """A site's answer that its training became non-finite.

    Attributes:
        site: its name.
        reason: in words.
        events: the answer itself, for the ledger: it depends on the records.
    """

    site: str
    reason: str
    events: tuple[Event, ...]


def read_report(message: Message) -> dict[str, Any]:
    """The report of a reply, with the index of its site under ``partition``.

    Raises:
        ClientFailure: the reply is malformed.
    """
    with _malformed(message):
        report = json.loads(message.content[REPORT]["json"], parse_constant=_no_number)
        partition = message.content[METRICS][PARTITION]
        if not isinstance(report, dict) or type(partition) is not int:
            raise TypeError(f"report {type(report).__name__}, partition {partition!r}")
        return {**report, PARTITION: partition}


def told_events(messages: Iterable[Message]) -> tuple[dict[str, Any], ...]:
    """Ledger events of the replies that can be read, as JSON values.

    For an exchange that failed: what sites sent has been released, whatever another one did.
    """
    events: list[dict[str, Any]] = []
    for message in messages:
        with suppress(ClientFailure):
            report = read_report(message)
            with _malformed(message):
                _sound(report["events"])
                events.extend(report["events"])
    return tuple(events)


def read_training(
    message: Message, *, size: int, round_number: int
) -> TrainAnswer | CollapseAnswer:
    """A reply to a training message.

    Args:
        message: the reply; its status is ``ok`` or ``collapsed`` (see ``StrictGrid``).
        size: number of scalars that the update must have.
        round_number: the round that was asked for.

    Raises:
        ClientFailure: the reply is malformed.
    """
    report = read_report(message)
    with _malformed(message):
        events, site = tuple(_sound(report["events"])), str(report["site"])
        for told in events:
            if (told.round, told.site) != (round_number, site):
                raise ValueError(f"an event of round {told.round} at {told.site}")
        if report["status"] == "collapsed":
            return CollapseAnswer(site, str(report["reason"]), events)
        optional = {
            key: None if report.get(key) is None else _number(report[key])
            for key in ("loss", "signal", "what_if_mu")
        }
        noise = report.get("noise_norm")
        return TrainAnswer(
            node=message.metadata.src_node_id,
            events=events,
            update=decode_vector(message.content[ARRAYS]["vector"], size),
            num_examples=_number(message.content[METRICS][NUM_EXAMPLES], 1),
            steps=int(_number(report["steps"], 1)),
            noise_norm=None if noise is None else _number(noise, 0),
            **optional,
        )


def read_evidence(message: Message) -> Evidence:
    """A reply to an evaluation message.

    Raises:
        ClientFailure: the reply is malformed.
    """
    report = read_report(message)
    with _malformed(message):
        arrays = message.content[ARRAYS]
        rows = decode_matrix(arrays["evidence"])
        labels = decode_matrix(arrays["labels"])[:, 0]
        parts = tuple((str(name), int(count)) for name, count in report["parts"])
        if not len(rows) == len(labels) == sum(count for _, count in parts):
            raise ValueError(f"{len(rows)} rows, {len(labels)} labels, parts {parts}")
        return Evidence(rows, labels, parts)


def _sound(events: Sequence[Mapping[str, Any]]) -> list[Event]:
    """The events of a report, of which there is at least one."""
    if not events:
        raise ValueError("no event")
    return [Event.from_json(event) for event in events]


@contextmanager
def _malformed(message: Message) -> Iterator[None]:
    """Whatever goes wrong while reading a reply is the sender's failure."""
    try:
        yield
    except Exception as error:
        node = f"node {message.metadata.src_node_id}"
        raise ClientFailure(f"{node} sent a malformed reply: {error!r}", node) from error


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of strict JSON")


def _number(value: Any, least: float = -math.inf) -> float:
    number = float(value)
    if not (math.isfinite(number) and number >= least):
        raise ValueError(f"{value!r} is not a finite number of at least {least:g}")
    return number

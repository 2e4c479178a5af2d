"""What travels between server and sites, as Flower records.

A vector travels as raw little-endian float32 bytes: one copy each way, where ``numpy.save`` costs
four times as much for the small models of a sweep.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedprivacy.errors import ClientFailure

ARRAYS, CONFIG, METRICS, REPORT = "arrays", "config", "metrics", "report"
ROUND = "server-round"
PARTITION = "partition"
CELL, SITES = "cell", "num-sites"
_STYPE = "raw/float32-le"


def encode_vector(vector: torch.Tensor) -> Array:
    """``(d,)`` float32 on the CPU as a Flower array."""
    return Array("float32", (vector.numel(),), _STYPE, vector.numpy().tobytes())


def decode_vector(array: Array) -> torch.Tensor:
    """Inverse of ``encode_vector``; a fresh tensor that may be written to."""
    if array.stype != _STYPE or len(array.data) != 4 * array.shape[0]:
        raise ClientFailure(
            f"malformed vector: {array.stype}, shape {array.shape}, {len(array.data)} bytes"
        )
    return torch.frombuffer(bytearray(array.data), dtype=torch.float32)


def encode_matrix(matrix: NDArray[np.float32]) -> Array:
    """``(m, k)`` float32 as a Flower array."""
    return Array("float32", tuple(matrix.shape), _STYPE, np.ascontiguousarray(matrix).tobytes())


def decode_matrix(array: Array) -> NDArray[np.float32]:
    """Inverse of ``encode_matrix``."""
    return np.frombuffer(array.data, dtype=np.float32).reshape(array.shape)


def instruction(vector: torch.Tensor, round_number: int) -> RecordDict:
    """What the server sends to a site: weights and the number of the round."""
    return RecordDict(
        {
            ARRAYS: ArrayRecord({"vector": encode_vector(vector)}),
            CONFIG: ConfigRecord({ROUND: round_number}),
        }
    )


def train_reply(
    message: Message,
    *,
    partition: int,
    update: torch.Tensor,
    num_examples: int,
    report: Mapping[str, Any],
) -> Message:
    """What a site sends after training: its protected update and its report."""
    content = RecordDict(
        {
            ARRAYS: ArrayRecord({"vector": encode_vector(update)}),
            METRICS: MetricRecord({"num-examples": num_examples, PARTITION: partition}),
            REPORT: ConfigRecord({"json": json.dumps(report)}),
        }
    )
    return Message(content, reply_to=message)


def evaluate_reply(
    message: Message,
    *,
    partition: int,
    evidence: NDArray[np.float32],
    labels: NDArray[np.float32],
    parts: Sequence[tuple[str, int]],
) -> Message:
    """What a site sends after evaluation: evidence per held-out record.

    Args:
        message: the instruction that is answered.
        partition: index of the site.
        evidence: ``(m, k)`` as ``fedprivacy.metrics.evidence`` makes it.
        labels: ``(m,)`` true classes; zeros for segmentation.
        parts: (name of a site, number of its records), in the order of the rows.
    """
    content = RecordDict(
        {
            ARRAYS: ArrayRecord(
                {"evidence": encode_matrix(evidence), "labels": encode_matrix(labels[:, None])}
            ),
            METRICS: MetricRecord({"num-examples": len(evidence), PARTITION: partition}),
            REPORT: ConfigRecord({"json": json.dumps({"status": "ok", "parts": list(parts)})}),
        }
    )
    return Message(content, reply_to=message)


def trouble_reply(message: Message, *, partition: int, report: Mapping[str, Any]) -> Message:
    """A reply without any array: the site collapsed or failed; nothing of it leaves."""
    content = RecordDict(
        {
            METRICS: MetricRecord({"num-examples": 0, PARTITION: partition}),
            REPORT: ConfigRecord({"json": json.dumps(report)}),
        }
    )
    return Message(content, reply_to=message)


def read_report(message: Message) -> dict[str, Any]:
    """The report of a reply.

    Raises:
        ClientFailure: the reply is malformed.
    """
    try:
        report = json.loads(str(message.content[REPORT]["json"]))
        partition = int(message.content[METRICS][PARTITION])  # type: ignore[call-overload]
    except (KeyError, TypeError, ValueError) as error:
        raise ClientFailure(
            f"node {message.metadata.src_node_id} sent a malformed reply: {error!r}"
        ) from error
    return {**report, PARTITION: partition}

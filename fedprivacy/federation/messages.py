"""What travels between server and sites, as Flower records.

A vector travels as raw little-endian float32 bytes: one copy each way, where ``numpy.save`` costs
four times as much for the small models of a sweep.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

ARRAYS, CONFIG, METRICS, REPORT = "arrays", "config", "metrics", "report"
ROUND, CLIP = "server-round", "clip"
PARTITION, NUM_EXAMPLES = "partition", "num-examples"
# Keys of the run configuration; the app's manifest must know each of them.
CELL, SITES, EVALUATE = "cell", "num-sites", "evaluate"
_DTYPE, _STYPE = "float32", "raw/float32-le"


def encode_vector(vector: torch.Tensor) -> Array:
    """``(d,)`` float32 on the CPU as a Flower array."""
    return Array(_DTYPE, (vector.numel(),), _STYPE, vector.numpy().tobytes())


def decode_vector(array: Array, size: int | None = None) -> torch.Tensor:
    """Inverse of ``encode_vector``; a fresh tensor that may be written to.

    Args:
        array: what was received.
        size: the d that is expected; None: any.

    Raises:
        ValueError: the array is not such a vector.
    """
    _check(array, axes=1)
    if size is not None and array.shape != (size,):
        raise ValueError(f"a vector of shape {array.shape}, expected ({size},)")
    return torch.frombuffer(bytearray(array.data), dtype=torch.float32)


def encode_matrix(matrix: NDArray[np.float32]) -> Array:
    """``(m, k)`` float32 as a Flower array."""
    return Array(_DTYPE, tuple(matrix.shape), _STYPE, np.ascontiguousarray(matrix).tobytes())


def decode_matrix(array: Array) -> NDArray[np.float32]:
    """Inverse of ``encode_matrix``.

    Raises:
        ValueError: the array is not such a matrix.
    """
    _check(array, axes=2)
    return np.frombuffer(array.data, dtype=np.float32).reshape(array.shape)


def _check(array: Array, axes: int) -> None:
    sound = array.dtype == _DTYPE and array.stype == _STYPE and len(array.shape) == axes
    if not sound or math.prod(array.shape) < 1 or len(array.data) != 4 * math.prod(array.shape):
        raise ValueError(
            f"not {axes} axes of {_DTYPE} as {_STYPE}: {array.dtype}, {array.stype}, shape "
            f"{array.shape}, {len(array.data)} bytes"
        )


def instruction(vector: torch.Tensor, round_number: int, clip: float | None = None) -> RecordDict:
    """What the server sends to a site: weights, the number of the round, the clip norm if any."""
    config: dict[str, int | float] = {ROUND: round_number}
    if clip is not None:
        config[CLIP] = clip
    return RecordDict(
        {
            ARRAYS: ArrayRecord({"vector": encode_vector(vector)}),
            CONFIG: ConfigRecord(config),
        }
    )


def read_instruction(message: Message) -> tuple[torch.Tensor, int, float | None]:
    """Inverse of ``instruction``."""
    array, config = message.content[ARRAYS]["vector"], message.content[CONFIG]
    clip = config.get(CLIP)
    return decode_vector(array), int(config[ROUND]), None if clip is None else float(clip)


def train_reply(
    message: Message,
    *,
    partition: int,
    update: torch.Tensor,
    num_examples: int,
    report: Mapping[str, Any],
) -> Message:
    """What a site sends after training: its protected update and its report."""
    arrays = ArrayRecord({"vector": encode_vector(update)})
    return _reply(message, partition, num_examples, report, arrays)


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
    arrays = ArrayRecord(
        {"evidence": encode_matrix(evidence), "labels": encode_matrix(labels[:, None])}
    )
    report = {"status": "ok", "parts": list(parts)}
    return _reply(message, partition, len(evidence), report, arrays)


def trouble_reply(message: Message, *, partition: int, report: Mapping[str, Any]) -> Message:
    """A reply without any array: the site collapsed or failed; nothing of it leaves."""
    return _reply(message, partition, 0, report)


def _reply(
    message: Message,
    partition: int,
    num_examples: int,
    report: Mapping[str, Any],
    arrays: ArrayRecord | None = None,
) -> Message:
    content = RecordDict(
        {
            METRICS: MetricRecord({NUM_EXAMPLES: num_examples, PARTITION: partition}),
            REPORT: ConfigRecord({"json": json.dumps(report, allow_nan=False)}),
        }
    )
    if arrays is not None:
        content[ARRAYS] = arrays
    return Message(content, reply_to=message)

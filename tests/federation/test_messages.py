from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from flwr.app import Array, Message, MessageType

from fedprivacy.federation.messages import (
    decode_matrix,
    decode_vector,
    encode_matrix,
    encode_vector,
    instruction,
    read_instruction,
    train_reply,
    trouble_reply,
)


def test_a_vector_survives_bit_by_bit() -> None:
    vector = torch.tensor([0.0, -0.0, 1e-45, float("nan"), float("inf"), 0.1])
    array = encode_vector(vector)
    assert array.data == vector.numpy().astype("<f4").tobytes()
    assert decode_vector(array).numpy().tobytes() == vector.numpy().tobytes()


def test_a_decoded_vector_is_ones_own() -> None:
    array = encode_vector(torch.zeros(3))
    decode_vector(array).add_(1)
    assert decode_vector(array).tolist() == [0, 0, 0]


def test_a_matrix_survives_whatever_its_layout() -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    for given in (matrix, np.asfortranarray(matrix)):
        np.testing.assert_array_equal(decode_matrix(encode_matrix(given)), matrix)


@pytest.mark.parametrize(
    "array",
    [
        Array("float32", (3,), "raw/float32-le", b"\0" * 8),
        Array("float32", (3,), "raw/float32-le", b"\0" * 13),
        Array("float64", (3,), "raw/float32-le", b"\0" * 12),
        Array("float32", (3,), "numpy.ndarray", b"\0" * 12),
        Array("float32", (1, 3), "raw/float32-le", b"\0" * 12),
        Array("float32", (), "raw/float32-le", b"\0" * 4),
        Array("float32", (0,), "raw/float32-le", b""),
    ],
)
def test_what_is_not_a_vector_is_refused(array: Array) -> None:
    with pytest.raises(ValueError, match="not 1 axes of float32"):
        decode_vector(array)


def test_a_vector_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\), expected \(4,\)"):
        decode_vector(encode_vector(torch.zeros(3)), 4)


@pytest.mark.usefixtures("identity")
def test_an_instruction_is_read_back() -> None:
    content = instruction(torch.tensor([1.0, 2.0]), 7)
    weights, number, clip = read_instruction(Message(content, 1001, MessageType.TRAIN))
    assert weights.tolist() == [1.0, 2.0]
    assert (number, clip) == (7, None)


@pytest.mark.usefixtures("identity")
def test_a_clip_norm_travels_with_the_instruction() -> None:
    content = instruction(torch.tensor([1.0]), 2, 0.25)
    assert read_instruction(Message(content, 1001, MessageType.TRAIN))[2] == 0.25


@pytest.mark.usefixtures("identity")
def test_reports_are_strict_json_and_trouble_carries_no_array() -> None:
    message = Message(instruction(torch.zeros(2), 1), 1001, MessageType.TRAIN)
    reply = trouble_reply(message, partition=2, report={"status": "failed"})
    assert list(reply.content.array_records) == []
    assert json.loads(str(reply.content["report"]["json"])) == {"status": "failed"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        train_reply(
            message,
            partition=0,
            update=torch.zeros(2),
            num_examples=1,
            report={"loss": float("nan")},
        )

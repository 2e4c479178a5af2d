"""A cell of images small enough for a test."""

from __future__ import annotations

IMAGES = (
    "dataset=breast_density",
    "model=density_cnn",
    "model.channels=[4]",
    "federation.rounds=2",
    "federation.local_epochs=0.1",
    "federation.optimizer=sgd",
    "federation.lr=0.01",
)

"""Small studies in a folder of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

STUDY = """\
# @package _global_
defaults:
  - override /privacy: seeded
dataset:
  name: wisconsin
federation:
  rounds: 2
  local_epochs: 2
  lr: 0.3
tracking:
  enabled: false
tuning:
  name: small
  n_trials: 4
  confirm: 1
  confirm_seeds: 1
  sampler_seed: 0
  search_price: {scheme: public_data}
  warm_start: {spread: 1}
  space:
    federation.lr: {low: 0.05, high: 2.0, log: true}
    algorithm.max_grad_norm: {low: 0.1, high: 3.0, log: true}
"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """``small(replace=by, ...)``: a folder with the sweep ``small``, entered; returns it."""

    def made(**changes: str) -> Path:
        text = STUDY
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "sweeps").mkdir(exist_ok=True)
        (tmp_path / "sweeps" / "small.yaml").write_text(text, encoding="utf-8")
        return tmp_path

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return made

"""Training that becomes non-finite: nothing of it leaves, and the cell says where."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedprivacy.accounting.ledger import Ledger
from fedprivacy.cell import run_cell
from fedprivacy.config.schema import CellConfig
from fedprivacy.data.cache import load_data
from fedprivacy.federation import run
from fedprivacy.federation.client_app import evaluate_site, guarded, train_site
from fedprivacy.federation.engines.inprocess import InProcessEngine
from fedprivacy.federation.messages import decode_matrix, decode_vector
from fedprivacy.federation.site import CellRuntime
from fedprivacy.training.task import LocalTask, OptimizerSpec

Tiny = Callable[..., CellConfig]


class Wire:
    """Sites that note every array they receive and send."""

    def __init__(self, sites: Callable[..., ClientApp]) -> None:
        self.arrays: list[torch.Tensor] = []
        self.replies: list[tuple[int, bool]] = []
        train, evaluate = guarded(train_site), guarded(evaluate_site)
        self.app = sites(self._noting(train), self._noting(evaluate))

    def _noting(self, handler: Callable[..., Message]) -> Callable[..., Message]:
        def noting(message: Message, context: Context) -> Message:
            reply = handler(message, context)
            for content in (message.content, reply.content):
                for record in content.array_records.values():
                    for array in record.values():
                        decode = decode_vector if len(array.shape) == 1 else decode_matrix
                        self.arrays.append(torch.from_numpy(np.asarray(decode(array)).copy()))
            self.replies.append((message.metadata.dst_node_id, "arrays" in reply.content))
            return reply

        return noting


@pytest.fixture
def wire(sites: Callable[..., ClientApp], monkeypatch: pytest.MonkeyPatch) -> Wire:
    noted = Wire(sites)
    monkeypatch.setattr(run, "get_engine", lambda name: InProcessEngine(client_app=noted.app))
    return noted


@pytest.fixture
def site_2_diverges(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second site's learning rate explodes in round 2."""
    honest = CellRuntime.task

    def task(
        runtime: CellRuntime, partition: int, number: int, weights: Any, *more: Any, **named: Any
    ) -> LocalTask:
        made = honest(runtime, partition, number, weights, *more, **named)
        if (partition, number) == (1, 2):
            return replace(made, optimizer=OptimizerSpec("sgd", 1e38))
        return made

    monkeypatch.setattr(CellRuntime, "task", task)


def strict(path: Path) -> dict[str, Any]:
    def refuse(word: str) -> None:
        raise ValueError(word)

    read: dict[str, Any] = json.loads(path.read_text(), parse_constant=refuse)
    return read


@pytest.mark.usefixtures("site_2_diverges")
@pytest.mark.parametrize("algorithm", ["none", "dpsgd"])
def test_one_site_diverges(tiny: Tiny, wire: Wire, tmp_path: Path, algorithm: str) -> None:
    result = run_cell(tiny(f"algorithm={algorithm}"), tmp_path)
    assert result.status == "collapsed"
    assert result.round == 2
    assert result.reason == "round 2, site site-2: weights became non-finite"
    assert [block.round for block in result.rounds] == [1]
    assert result.score is None or result.score.value is None
    assert all(bool(torch.isfinite(array).all()) for array in wire.arrays)
    # Node 1002 trained, was scored, and then sent no array.
    assert [sent for node, sent in wire.replies if node == 1002] == [True, True, False]

    ledger = Ledger.read(tmp_path / "ledger.jsonl")
    assert [(e.round, e.site) for e in ledger] == [
        (r, f"site-{s}") for r in (1, 2) for s in (1, 2, 3)
    ]
    written = strict(tmp_path / "result.json")
    assert written["score"] is None or written["score"]["value"] is None
    assert written["status"] == "collapsed"


@pytest.mark.usefixtures("site_2_diverges")
def test_the_news_of_a_collapse_is_a_release_that_nothing_protects(
    tiny: Tiny, tmp_path: Path
) -> None:
    result = run_cell(tiny("algorithm=dpsgd"), tmp_path)
    assert result.privacy is not None
    assert result.privacy["infinite"] is True
    assert result.privacy["epsilon"] is None
    assert result.privacy["per_site"]["site-1"]["infinite"] is False
    assert result.privacy["per_site"]["site-2"]["infinite"] is True
    assert result.privacy["epsilon_protected"] > 0
    assert result.verdict == "partial"
    [news] = [e for e in Ledger.read(tmp_path / "ledger.jsonl") if not e.protected]
    assert (news.site, news.round, news.unit, news.mechanism) == ("site-2", 2, "record", "dpsgd")
    assert "non-finite" in news.reason


@pytest.mark.parametrize("algorithm", ["none", "dpsgd", "svt", "gaussian"])
def test_every_site_diverges_at_once(
    tiny: Tiny, wire: Wire, tmp_path: Path, algorithm: str
) -> None:
    result = run_cell(tiny(f"algorithm={algorithm}", "federation.lr=1e30"), tmp_path)
    assert (result.status, result.round) == ("collapsed", 1)
    assert result.rounds == ()
    assert result.error is None
    assert all(bool(torch.isfinite(array).all()) for array in wire.arrays)
    assert {sent for _, sent in wire.replies} == {False}
    assert result.privacy is not None
    assert result.privacy["infinite"] is True
    told = "the site told that its training became non-finite, which nothing protects"
    assert result.privacy["reason"] == f"round 1, all sites: {told}"
    assert result.score is not None
    data = load_data(tiny().dataset)
    labels = torch.cat([site.test_y for site in data.sites]).long()
    majority = float(labels.bincount().max()) / len(labels)
    expected = {"accuracy": majority, "auc": 0.5}[data.metric]
    assert (result.score.name, result.score.value) == (data.metric, None)
    assert result.score.chance == pytest.approx(expected)
    assert result.verdict == "unprotected"
    assert strict(tmp_path / "result.json")["privacy"]["epsilon"] is None


@pytest.mark.parametrize("lr", ["1e2", "1e5", "1e10", "1e15", "1e20", "1e38"])
def test_whatever_the_learning_rate_only_finite_numbers_travel(
    tiny: Tiny, wire: Wire, tmp_path: Path, lr: str
) -> None:
    result = run_cell(tiny(f"federation.lr={lr}"), tmp_path)
    assert result.status in ("ok", "collapsed")
    assert wire.arrays
    for array in wire.arrays:
        assert bool(torch.isfinite(array).all())
    strict(tmp_path / "result.json")


def test_predictions_that_are_not_finite_collapse_a_round_that_is_done(
    tiny: Tiny, wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = CellRuntime.evaluate
    calls: list[int] = []

    def overflowing(runtime: CellRuntime, partition: int, weights: torch.Tensor) -> Any:
        rows, labels, parts = honest(runtime, partition, weights)
        calls.append(partition)
        return (rows * np.nan if len(calls) == 5 else rows), labels, parts

    monkeypatch.setattr(CellRuntime, "evaluate", overflowing)
    result = run_cell(tiny("algorithm=dpsgd"), tmp_path)
    assert result.reason == "round 2, site site-2: predictions became non-finite"
    assert (result.status, result.round) == ("collapsed", 2)
    assert [block.score is None for block in result.rounds] == [False, True]
    assert all(bool(torch.isfinite(array).all()) for array in wire.arrays)
    # Held-out records lie outside the claim, so the proof of both rounds stands.
    assert result.privacy is not None
    assert (result.privacy["infinite"], result.privacy["rounds"]) == (False, 2)
    assert result.score is not None
    assert result.score.value is None

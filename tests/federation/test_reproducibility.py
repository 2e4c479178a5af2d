"""The same seed gives the same bits; secret randomness never does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch

from fedprivacy.config.schema import CellConfig
from fedprivacy.config.serialization import dumps
from fedprivacy.data.cache import load_data
from fedprivacy.federation.run import FederationOutcome, run_federation
from fedprivacy.federation.site import CellRuntime, LocalUpdate, close_runtime
from fedprivacy.models.registry import build_model
from fedprivacy.training.losses import LOSSES
from fedprivacy.training.randomness import Streams, derive_seed

Tiny = Callable[..., CellConfig]
Digest = Callable[[FederationOutcome], str]
ALGORITHMS = ("none", "dpsgd", "svt", "gaussian")
NOISY = ("dpsgd", "svt", "gaussian")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the engine trains: float sums depend on how many threads share them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_same_seed_twice_gives_the_same_bits(
    tiny: Tiny, digest: Digest, algorithm: str
) -> None:
    config = tiny(f"algorithm={algorithm}")
    first = run_federation(config)
    again = run_federation(config)  # in the runtime that the first run has used
    close_runtime()
    anew = run_federation(config)
    assert digest(first) == digest(again) == digest(anew)
    assert first.history == again.history == anew.history
    assert first.events == again.events
    assert digest(run_federation(tiny(f"algorithm={algorithm}", "seed=1"))) != digest(first)


@pytest.mark.parametrize("federation", ["local", "central"])
def test_the_baselines_repeat_too(tiny: Tiny, digest: Digest, federation: str) -> None:
    config = tiny(f"federation={federation}")
    first = run_federation(config)
    assert digest(first) == digest(run_federation(config))
    assert len(first.weights) == (3 if federation == "local" else 1)


def test_another_cell_in_between_changes_nothing(tiny: Tiny, digest: Digest) -> None:
    config = tiny("algorithm=dpsgd")
    first = digest(run_federation(config))
    run_federation(tiny("algorithm=none", "model.hidden=[8]"))
    torch.manual_seed(1234)
    assert digest(run_federation(config)) == first


FRESH = """
import hashlib, sys
from fedprivacy.config.serialization import loads
from fedprivacy.federation.run import run_federation
for cell in sys.stdin.read().splitlines():
    weights = run_federation(loads(cell)).weights["vector"]
    print(hashlib.sha256(weights.numpy().tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_a_fresh_process_gives_the_same_bits(tiny: Tiny, digest: Digest) -> None:
    configs = [tiny(f"algorithm={name}") for name in ALGORITHMS]
    here = [digest(run_federation(config)) for config in configs]
    ran = subprocess.run(
        [sys.executable, "-c", FRESH],
        input="\n".join(map(dumps, configs)),
        capture_output=True,
        text=True,
        check=True,
        # Neither hashing of strings nor the number of threads may matter.
        env={**os.environ, "PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "2"},
    )
    assert ran.stdout.split() == here
    assert len(set(here)) == len(ALGORITHMS)


def bare_loop(config: CellConfig) -> torch.Tensor:
    """Federated averaging in plain PyTorch: no flat vectors, no messages, no Flower."""
    data, federation = load_data(config.dataset), config.federation
    model = build_model(config.model, data, derive_seed(config.seed, "init"))
    loss_of = LOSSES[data.task]
    weights = [p.detach().clone() for p in model.parameters()]
    total = sum(len(site.train_x) for site in data.sites)
    for number in range(1, federation.rounds + 1):
        mean = [torch.zeros_like(w, dtype=torch.float64) for w in weights]
        for index, site in enumerate(data.sites):
            with torch.no_grad():
                for parameter, weight in zip(model.parameters(), weights, strict=True):
                    parameter.copy_(weight)
            optimizer = torch.optim.SGD(
                model.parameters(), lr=federation.lr, momentum=federation.momentum
            )
            generator = Streams(config.seed, "seeded", number, index).torch("batches")
            for _ in range(int(federation.local_epochs)):
                order = torch.randperm(len(site.train_x), generator=generator)
                for start in range(0, len(order), federation.batch_size):
                    batch = order[start : start + federation.batch_size]
                    optimizer.zero_grad()
                    loss_of(model(site.train_x[batch]), site.train_y[batch]).backward()
                    optimizer.step()
            share = len(site.train_x) / total
            for part, parameter, weight in zip(mean, model.parameters(), weights, strict=True):
                part += share * (parameter.detach() - weight).double()
        weights = [w + part.float() for w, part in zip(weights, mean, strict=True)]
    return torch.cat([w.reshape(-1) for w in weights])


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("overrides", [(), ("federation.local_epochs=2", "federation.lr=0.3")])
def test_the_engine_equals_a_bare_loop_bit_by_bit(tiny: Tiny, overrides: tuple[str, ...]) -> None:
    config = tiny(*overrides)
    outcome = run_federation(config)
    assert torch.equal(outcome.weights["vector"], bare_loop(config))


# ------------------------------------------------------------------ randomness


@pytest.mark.parametrize("algorithm", NOISY)
def test_secret_noise_differs_between_runs(tiny: Tiny, digest: Digest, algorithm: str) -> None:
    config = tiny(f"algorithm={algorithm}", "privacy=default", "federation.rounds=1")
    assert config.privacy.randomness == "secret"
    assert len({digest(run_federation(config)) for _ in range(3)}) == 3


def test_without_noise_nothing_is_secret(tiny: Tiny, digest: Digest) -> None:
    secret = run_federation(tiny("privacy=default"))
    assert digest(secret) == digest(run_federation(tiny()))


def _noise(config: CellConfig, partition: int, number: int) -> torch.Tensor:
    """What the mechanism of a runtime adds to the update of a site in a round."""
    close_runtime()
    runtime = CellRuntime(config)
    raw = CellRuntime(
        CellConfig(**{**config.__dict__, "algorithm": type(config.algorithm)(sigma0=0.0)})  # type: ignore[call-arg]
    )
    weights = runtime.initial_weights
    noisy, plain = (r.train(partition, number, weights) for r in (runtime, raw))
    assert isinstance(noisy, LocalUpdate)
    assert isinstance(plain, LocalUpdate)
    return noisy.update - plain.update


def test_noise_differs_between_sites_and_rounds_and_has_no_relation(tiny: Tiny) -> None:
    config = tiny("algorithm=gaussian", "algorithm.sigma0=1.0")
    drawn = [_noise(config, partition, number) for partition in (0, 1) for number in (1, 2)]
    size = drawn[0].numel()
    for first in range(4):
        for second in range(first):
            related = torch.corrcoef(torch.stack([drawn[first], drawn[second]]))[0, 1]
            # Independent noise: a standard deviation of 1/sqrt(d), so five of them.
            assert abs(float(related)) < 5 / size**0.5
    again = _noise(config, 0, 1)
    assert torch.equal(again, drawn[0])

"""pfl-research's simulator, without metrics of single users."""

from __future__ import annotations

import importlib.metadata

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Weighted
from pfl.model.pytorch import PyTorchModel
from work import BATCH, RATE, Clock, Net, arguments, loss_of, records, tell

args = arguments()
torch.set_num_threads(1)
users = {index: records(index + 1, args.rows) for index in range(args.sites)}


class Peer(Net):
    """The model as pfl wants it."""

    def loss(self, x: torch.Tensor, y: torch.Tensor, eval: bool = False) -> torch.Tensor:
        return loss_of(self, x, y)

    def metrics(self, x: torch.Tensor, y: torch.Tensor, eval: bool = False) -> dict[str, Weighted]:
        return {"none": Weighted(0, 1)}  # no user is evaluated


class Never(int):
    """How often to evaluate users; pfl takes iteration 0 for a multiple of any other number."""

    def __rmod__(self, iteration: int) -> int:
        return 1


def dataset(index: int) -> Dataset:
    x, y = users[index]
    order = torch.randperm(len(x))
    return Dataset([x[order], y[order]], user_id=str(index))


def run() -> Peer:
    """All rounds."""
    model = Peer()
    federated = FederatedDataset(dataset, get_user_sampler("minimize_reuse", list(users)))
    backend = SimulatedBackend(training_data=federated, val_data=federated)
    FederatedAveraging().run(
        backend=backend,
        model=PyTorchModel(
            model,
            local_optimizer_create=torch.optim.SGD,
            central_optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        ),
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=args.rounds,
            evaluation_frequency=Never(),
            train_cohort_size=args.sites,
            val_cohort_size=None,
        ),
        model_train_params=NNTrainHyperParams(
            local_batch_size=BATCH, local_num_epochs=1, local_learning_rate=RATE
        ),
        model_eval_params=None,
        send_metrics_to_platform=False,
    )
    return model


np.random.seed(0)
model, clock = run(), Clock()
for _ in range(args.repeats):
    with clock:
        model = run()
version = importlib.metadata.version("pfl")
tell("pfl-research", version, clock.runs, args.rounds, model)

"""A loop that does federated averaging and nothing else."""

from __future__ import annotations

import torch
from work import Clock, Net, arguments, records, tell, train

args = arguments()
torch.set_num_threads(1)
sites = [records(index + 1, args.rows) for index in range(args.sites)]


def run() -> Net:
    """All rounds."""
    model = Net()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    for number in range(args.rounds):
        total = {name: torch.zeros_like(value) for name, value in weights.items()}
        for index, (x, y) in enumerate(sites):
            model.load_state_dict(weights)
            train(model, x, y, torch.Generator().manual_seed(1000 * number + index))
            for name, value in model.state_dict().items():
                total[name] += value / len(sites)
        weights = total
    model.load_state_dict(weights)
    return model


model, clock = run(), Clock()
for _ in range(args.repeats):
    with clock:
        model = run()
tell("bare loop", torch.__version__, clock.runs, args.rounds, model)

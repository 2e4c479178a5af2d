"""Work on a GPU that is recorded once as a CUDA graph and replayed.

A step of a small network is hundreds of kernels of a few microseconds, and telling the GPU of each
takes the host longer than the kernel runs. A graph tells it of all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

_T = TypeVar("_T")

WARM_UPS = 2


def is_recorded(device: torch.device) -> bool:
    """Whether work on a device is recorded; where it is not, nothing would be gained."""
    return device.type == "cuda"


class Recorder(Protocol):
    """Runs ``work`` and makes it repeatable: what to call, and what ``work`` returned.

    Replaying does the work again on what its tensors hold then, and leaves the outcome in the
    tensors that were returned. Nobody else may count on those after another replay.
    """

    def __call__(self, work: Callable[[], _T]) -> tuple[Callable[[], None], _T]: ...


def cuda_graph(work: Callable[[], _T]) -> tuple[Callable[[], None], _T]:
    """Record ``work`` as a CUDA graph (PyTorch's documentation, "CUDA Graphs").

    Raises:
        RuntimeError: the work waits for the GPU, or does what a graph cannot hold.
    """
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UPS):  # libraries choose kernels and make room for themselves
            work()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on using the device meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = work()
    return graph.replay, result

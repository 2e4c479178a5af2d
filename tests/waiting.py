"""What makes the host wait for a device, refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class _NoReading(TorchFunctionMode):
    """Refuses what reads a tensor without torch's dispatcher, or does nothing on a CPU."""

    READING = (torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.READING:
            raise AssertionError(f"{func.__name__} inside a round")
        return func(*args, **(kwargs or {}))


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for a device: values, and shapes that depend on them.

    What is sent to a device, and whether that waits, shows on a device alone; see
    ``synchronisation_refused``.
    """

    WAITING = frozenset(
        [
            "_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select",
            "_unique2", "unique_consecutive", "unique_dim",
            "lift_fresh",  # ``torch.tensor``, which would wait for its values to be sent
        ]
    )  # fmt: skip

    def __enter__(self) -> NoWaiting:
        self._reading = _NoReading()
        self._reading.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._reading.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name in self.WAITING:
            raise AssertionError(f"{name} inside a round")
        if name in ("index.Tensor", "index") and any(
            isinstance(one, torch.Tensor) and one.dtype == torch.bool for one in args[1]
        ):
            raise AssertionError("an index by mask inside a round")
        return func(*args, **(kwargs or {}))


@contextmanager
def synchronisation_refused() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)

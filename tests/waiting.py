"""What makes the host wait for a device, refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for a device: values, and shapes that depend on them."""

    WAITING = frozenset(
        # The last one is what ``torch.tensor`` does, which would wait for its values to be sent.
        ["_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "lift_fresh"]
    )

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

"""Records on the device, copied there once per process, not once per cell or round."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch

from fedprivacy.data.base import SiteData
from fedprivacy.training.stacked.records import StackedRecords

_DATASETS_KEPT = 2
_copies: OrderedDict[tuple[str, str], dict[tuple[str, str], torch.Tensor]] = OrderedDict()

# Of the data set in use; a stack is as large as all its records.
_stacks: dict[tuple[str, str], tuple[tuple[str, ...], StackedRecords]] = {}


class DeviceRecords:
    """Training and held-out records of a dataset's sites, where they are used.

    Args:
        data: a text that is equal for equal records, ``fedprivacy.data.cache.dataset_key``.
        device: where they are used. On the CPU nothing is copied.
    """

    def __init__(self, data: str, device: torch.device) -> None:
        self._device, self._key = device, (data, str(device))
        self._mine = _copies.setdefault((data, str(device)), {})
        _copies.move_to_end((data, str(device)))
        while len(_copies) > _DATASETS_KEPT:
            _copies.popitem(last=False)

    def train(self, site: SiteData) -> tuple[torch.Tensor, torch.Tensor]:
        """Training records ``(n, ...)`` and their targets."""
        x, y = (site.name, "train_x"), (site.name, "train_y")
        return self._at(x, site.train_x), self._at(y, site.train_y)

    def test(self, site: SiteData) -> tuple[torch.Tensor, torch.Tensor]:
        """Held-out records ``(m, ...)`` and their targets."""
        x, y = (site.name, "test_x"), (site.name, "test_y")
        return self._at(x, site.test_x), self._at(y, site.test_y)

    def stacked(self, sites: Sequence[SiteData]) -> StackedRecords:
        """The sites' training records as one tensor, in their order; copied when that changes.

        On a device other than the CPU the single copies become views of it.
        """
        names = tuple(site.name for site in sites)
        kept = _stacks.get(self._key)
        if kept is None or kept[0] != names:
            together = StackedRecords.of([self.train(site) for site in sites])
            _stacks.clear()
            _stacks[self._key] = kept = (names, together)
            for index, name in enumerate(names):
                if (name, "train_x") in self._mine:
                    own = together.site(index)
                    self._mine[name, "train_x"], self._mine[name, "train_y"] = own
        return kept[1]

    def _at(self, key: tuple[str, str], tensor: torch.Tensor) -> torch.Tensor:
        if tensor.device.type == self._device.type:
            return tensor
        if key not in self._mine:
            self._mine[key] = tensor.to(self._device)
        return self._mine[key]

from __future__ import annotations

import dp_accounting
import torch

from fedprivacy.mechanisms.none import NoMechanism
from fedprivacy.training.plain import train_plain


def test_trains_plainly_and_sends_the_update_as_it_is(make_task) -> None:
    ours, plain = make_task(), make_task()
    assert NoMechanism().train(ours) == train_plain(plain)
    assert torch.equal(ours.parameters.flat, plain.parameters.flat)
    update = torch.randn(ours.parameters.size)
    protected = NoMechanism().protect(update, ours, train_plain(plain))
    assert torch.equal(protected.update, update)
    assert protected.noise_norm == 0


def test_proves_nothing_even_when_a_schedule_gives_a_strength(make_task) -> None:
    task = make_task(strength=1.0)
    release = NoMechanism().release(task, NoMechanism().train(task))
    assert release.dp_event == dp_accounting.NonPrivateDpEvent()
    assert "raw update" in release.reason

"""Which mechanisms can train many sites at once, and the certified sums with which DP-SGD does."""

from __future__ import annotations

from torch import nn

from fedprivacy.mechanisms.base import Mechanism
from fedprivacy.mechanisms.dpsgd import DpSgd
from fedprivacy.mechanisms.grad_engines.certificate import GRADIENT_TOLERANCE, ensure_certified
from fedprivacy.mechanisms.grad_engines.choose import fastest_engine
from fedprivacy.mechanisms.grad_engines.clipping import CLIPPINGS, Contribution
from fedprivacy.mechanisms.grad_engines.stacked import StackedEngine, StackedSums, stacked_sums
from fedprivacy.mechanisms.guards import check_strength
from fedprivacy.mechanisms.stacked import Stacked
from fedprivacy.training.stacked.functional import stacking_faults
from fedprivacy.training.stacked.gradients import StackedGradients, stacked_gradients
from fedprivacy.training.task import LocalTask

_STACKABLE_ENGINES = ("bookkeeping", "vmap")
# Of a gradient in bf16, whose direction may differ; what bounds its norm is as strict as ever.
_COARSE_TOLERANCE = 0.5


def _parts(mechanism: Mechanism) -> tuple[Mechanism, ...]:
    return mechanism.parts if isinstance(mechanism, Stacked) else (mechanism,)


def noisy_training(mechanism: Mechanism, strength: float | None) -> DpSgd | None:
    """The DP-SGD that trains in a round of that strength; None where training is plain."""
    if strength is None:
        return None
    return next((part for part in _parts(mechanism) if isinstance(part, DpSgd)), None)


def stacking_refusal(mechanism: Mechanism, model: nn.Module, strength: float | None) -> str:
    """Why sites cannot train at once in a round of that strength, in words; empty if they can.

    Args:
        mechanism: of the cell. One that acts after training leaves training plain.
        model: of the cell.
        strength: of the round's protection; None where it is off.
    """
    for part in _parts(mechanism):
        if part.placement == "source":
            return f"{part.name} draws noise on each site's own records"
        if part.placement == "training" and not isinstance(part, DpSgd):
            return f"{part.name} trains in a way of its own"
    if faults := stacking_faults(model):
        return "; ".join(faults)
    noisy = noisy_training(mechanism, strength)
    return _dpsgd_refusal(noisy, model) if noisy is not None else ""


def _dpsgd_refusal(mechanism: DpSgd, model: nn.Module) -> str:
    if mechanism.augmentations > 1:
        return f"algorithm.augmentations={mechanism.augmentations} makes views site by site"
    if CLIPPINGS[mechanism.clipping].counts:
        return f"algorithm.clipping={mechanism.clipping} moves each site's own clip norm"
    asked = mechanism.grad_engine
    chosen = fastest_engine(model) if asked == "auto" else asked
    if chosen not in _STACKABLE_ENGINES:
        return f"algorithm.grad_engine={asked} means {chosen} for this model"
    return ""


def certified_sums(
    mechanism: DpSgd, task: LocalTask, gradients: StackedGradients, precision: str
) -> StackedSums:
    """The stacked clipped sums of a mechanism, once they have passed the start-up certificate.

    Below float32 the sums are certified twice: in float32, where they must equal the loop's, and
    as they are, where their direction may be coarse and their norm may not.

    Args:
        mechanism: what trains.
        task: of one of the sites, in a protected round; only shapes of its records are looked at.
        gradients: of the sites' model.
        precision: of these.

    Raises:
        ProtectionError: the sums do not bound a record's contribution to this model, or the
            strength is not from 0 up.
    """
    assert task.strength is not None
    check_strength(task.strength, mechanism.name)
    model, rule = task.parameters.model, CLIPPINGS[mechanism.clipping]
    bound, _, _ = mechanism.step_scales(task.strength)

    def certify(sums: StackedSums, precision: str, tolerance: float) -> None:
        engine, contribution = StackedEngine(model, sums, precision), Contribution(rule)
        ensure_certified(model, task.loss, task.x, task.y, engine, bound, contribution, tolerance)

    sums = exact = stacked_sums(gradients, rule, mechanism.physical_batch)
    if precision != "float32":
        whole = stacked_gradients(model, task.loss)
        exact = stacked_sums(whole, rule, mechanism.physical_batch)
        certify(sums, precision, _COARSE_TOLERANCE)
    certify(exact, "float32", GRADIENT_TOLERANCE)
    return sums

"""How far DP-SGD can move the weights: what decides, before anything is trained, whether it learns.

A clipped step moves the weights by at most lr C / (1 - momentum), so a run of T steps reaches no
further than lr C T / (1 - momentum), whatever the records are. Settings with the same reach train
much alike; with a hundredth of it the model stays where it began, with a hundred times it the
noise carries it away. At a fixed epsilon the linear scaling rule speaks of the same product
(Panda, Tang, Sehwag, Mahloujifar & Mittal 2024, arXiv 2212.04486). ``benchmarks/tuning.py`` shows
what heeding it saves. Computed from the configuration alone, so it costs no privacy.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedprivacy.config.schema import CellConfig, DpsgdConf
from fedprivacy.mechanisms.sampling import dpsgd_steps

_UNIT_CLIPS = ("normalized", "automatic")


def reach(config: CellConfig) -> float | None:
    """Largest distance, L2, that all steps together can move the weights; None: no such bound.

    Only for SGD with clipped gradients, in rounds that are all protected.

    Args:
        config: of a cell; its noise does not matter.
    """
    conf, federation = config.algorithm, config.federation
    if not isinstance(conf, DpsgdConf) or federation.optimizer != "sgd":
        return None
    clip = 1.0 if conf.clipping in _UNIT_CLIPS else conf.max_grad_norm
    steps = dpsgd_steps(federation.local_epochs, conf.sampling_rate) * federation.rounds
    return federation.lr * clip * steps / (1 - federation.momentum)


def collapsed_between(own: float, known: Sequence[tuple[float, bool]]) -> tuple[float, ...]:
    """How far the collapsed trials reach that lie between a setting and all that survived.

    Survival is one range of reach: below it the model stays where it began, above it the noise
    carries it away. A setting on the far side of what collapsed would collapse too.

    Args:
        own: reach of the setting.
        known: reach of each earlier trial, and whether it collapsed.

    Returns:
        Ascending; empty where the setting lies among the survivors, or where there are none.
    """
    survived = [far for far, collapsed in known if not collapsed]
    if not survived or min(survived) <= own <= max(survived):
        return ()
    low, high = (own, min(survived)) if own < min(survived) else (max(survived), own)
    return tuple(sorted(far for far, collapsed in known if collapsed and low <= far <= high))

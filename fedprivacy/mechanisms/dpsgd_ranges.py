"""What each setting of DP-SGD may be: one list, for configurations and for the mechanism itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from fedprivacy.errors import ConfigError
from fedprivacy.mechanisms.adaptive_clip import gradient_noise
from fedprivacy.mechanisms.grad_engines.clipping import CLIPPINGS
from fedprivacy.mechanisms.sampling import SAMPLINGS

GRAD_ENGINES = ("auto", "opacus", "bookkeeping", "vmap", "loop")

_CHOICES: dict[str, tuple[str, ...]] = {
    "sampling": SAMPLINGS,
    "clipping": tuple(CLIPPINGS),
    "grad_engine": GRAD_ENGINES,
}
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "noise_multiplier": (lambda value: value >= 0, ">= 0"),
    "target_epsilon": (lambda value: value > 0, "> 0"),
    "max_grad_norm": (lambda value: value > 0, "> 0"),
    "sampling_rate": (lambda value: 0 < value <= 1, "> 0 and <= 1"),
    "divisor": (lambda value: value > 0, "> 0"),
    "clip_quantile": (lambda value: 0 < value < 1, "> 0 and < 1"),
    "clip_rate": (lambda value: 0 < value <= 10, "> 0 and <= 10"),
    "count_noise": (lambda value: value > 0, "> 0"),
    "ema": (lambda value: 0 <= value < 1, ">= 0 and < 1"),
    "augmentations": (lambda value: 1 <= value <= 1000, ">= 1 and <= 1000"),
    "jitter": (lambda value: value >= 0, ">= 0"),
    "shift": (lambda value: value >= 0, ">= 0"),
    "physical_batch": (lambda value: value >= 1, ">= 1"),
}


class Settings(Protocol):
    """Anything with the fields of ``DpsgdConf``."""

    @property
    def noise_multiplier(self) -> float | None:
        """None: not settled yet."""
        ...

    @property
    def clipping(self) -> str:
        """Name of the rule."""
        ...

    @property
    def count_noise(self) -> float | None:
        """None: chosen by the noise multiplier."""
        ...


def check_settings(settings: Settings) -> None:
    """Refuse values out of range; None, where the schema allows it, stands for a default.

    Args:
        settings: a value with the fields of ``DpsgdConf``.

    Raises:
        ConfigError: names the key, the value and what is allowed.
    """
    for key, allowed in _CHOICES.items():
        value = getattr(settings, key)
        if value not in allowed:
            words = f"one of {', '.join(allowed)}"
            raise ConfigError(f"algorithm.{key}", value, words, f"algorithm.{key}={allowed[0]}")
    for key, (in_range, words) in _RANGES.items():
        number = getattr(settings, key)
        if number is not None and not (math.isfinite(number) and in_range(number)):
            fix = f"set algorithm.{key} to a number that is {words}"
            raise ConfigError(f"algorithm.{key}", number, f"finite and {words}", fix)
    noise, count_noise = settings.noise_multiplier, settings.count_noise
    if settings.clipping == "adaptive" and noise is not None and count_noise is not None:
        gradient_noise(noise, count_noise)

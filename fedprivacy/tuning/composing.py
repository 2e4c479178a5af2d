"""From the settings of a trial to the configuration of its cell, as Hydra would compose it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedprivacy.config.composition import compose_cell, explained, hydra_ready, parse
from fedprivacy.tuning.space import Value


@dataclass(frozen=True)
class Composed:
    """A composed configuration.

    Attributes:
        node: without Hydra's own part.
        hydra: that part, as YAML.
        overrides: what to type to get it.
    """

    node: DictConfig
    hydra: str
    overrides: tuple[str, ...]


@dataclass
class Composer:
    """Composes many cells that share most of their configuration.

    Hydra composes once for each combination of groups; plain keys are then set in a copy, which is
    what Hydra itself does last, and ten times faster. Interpolations stay unresolved until then,
    so what refers to a changed key follows it.

    Args:
        overrides: as typed, the same for all cells.
        config_dirs: the user's own configuration folders.
    """

    overrides: tuple[str, ...]
    config_dirs: tuple[str, ...] = ()
    _bases: dict[tuple[str, ...], tuple[DictConfig, str]] = field(default_factory=dict)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Keep Hydra's composition open for a while."""
        with hydra_ready(self.config_dirs):
            yield

    def base(self) -> DictConfig:
        """The configuration as typed, Hydra's own node included."""
        with self.ready():
            return compose_cell(self.overrides, self.config_dirs)

    def compose(self, settings: Mapping[str, Value]) -> Composed:
        """The configuration with the settings of a trial on top of what was typed.

        Args:
            settings: value by configuration key or group.

        Raises:
            ConfigError: Hydra or OmegaConf refused; names the key.
        """
        texts = {key: override(key, value) for key, value in settings.items()}
        groups = tuple(texts[key] for key in settings if "." not in key and self._is_group(key))
        if groups not in self._bases:
            self._bases[groups] = self._compose_groups(groups)
        base, hydra = self._bases[groups]
        node = copy.deepcopy(base)
        for key, text in texts.items():
            if text not in groups:
                _set(node, key, text)
        return Composed(node, hydra, (*self.overrides, *texts.values()))

    def _is_group(self, key: str) -> bool:
        if () not in self._bases:
            self._bases[()] = self._compose_groups(())
        return key in self._groups

    def _compose_groups(self, groups: Sequence[str]) -> tuple[DictConfig, str]:
        with self.ready():
            whole = compose_cell([*self.overrides, *groups], self.config_dirs)
        self._groups = {str(group) for group in whole.hydra.runtime.choices}
        hydra = OmegaConf.to_yaml(OmegaConf.masked_copy(whole, ["hydra"]))
        own = [str(key) for key in whole if key != "hydra"]
        return OmegaConf.masked_copy(whole, own), hydra

    def choices(self, settings: Mapping[str, Value]) -> dict[str, str]:
        """What each configuration group is set to, for the given settings."""
        texts = [override(key, value) for key, value in settings.items() if self._is_group(key)]
        with self.ready():
            whole = compose_cell([*self.overrides, *texts], self.config_dirs)
        return {str(k): str(v) for k, v in whole.hydra.runtime.choices.items()}


def override(key: str, value: Value) -> str:
    """One setting as an override."""
    if value is None:
        return f"{key}=null"
    if isinstance(value, bool):
        return f"{key}={str(value).lower()}"
    return f"{key}={value!r}" if isinstance(value, float) else f"{key}={value}"


def _set(node: DictConfig, key: str, text: str) -> None:
    (parsed,) = parse([text])
    try:
        OmegaConf.update(node, key, parsed.value(), merge=False)
    except OmegaConfBaseException as error:
        raise explained(error, [text]) from error

"""Composes many cells that share most of their configuration, as Hydra would one by one."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedprivacy.config.composition import compose_cell, explained, hydra_ready, parse

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Composed:
    """A composed configuration.

    Attributes:
        node: without Hydra's own part.
        hydra: that part.
        overrides: what to type to get it.
    """

    node: DictConfig
    hydra: DictConfig
    overrides: tuple[str, ...]

    def write(self, folder: Path, overrides: Sequence[str] | None = None) -> None:
        """Leave in ``folder/.hydra`` what Hydra itself would leave there.

        Args:
            folder: of the cell.
            overrides: what was typed, if more than this.
        """
        own = folder / ".hydra"
        own.mkdir(parents=True, exist_ok=True)
        typed = list(self.overrides if overrides is None else overrides)
        hydra = copy.deepcopy(self.hydra)
        OmegaConf.update(hydra, "hydra.overrides.task", typed, force_add=True)
        OmegaConf.save(self.node, own / "config.yaml")
        OmegaConf.save(OmegaConf.create(typed), own / "overrides.yaml")
        OmegaConf.save(hydra, own / "hydra.yaml")


@dataclass
class Composer:
    """Composes cells that differ in a few overrides.

    Hydra composes once for each combination of groups; plain keys are then set in a copy, which is
    what Hydra itself does last, and ten times faster. Interpolations stay unresolved until then,
    so what refers to a changed key follows it.

    Args:
        overrides: as typed, the same for all cells.
        config_dirs: the user's own configuration folders.
        groups: names of all configuration groups; None: those of the configuration as typed,
            which must then compose by itself.
    """

    overrides: tuple[str, ...]
    config_dirs: tuple[str, ...] = ()
    groups: frozenset[str] | None = None
    _bases: dict[tuple[str, ...], tuple[DictConfig, DictConfig]] = field(default_factory=dict)

    def base(self) -> DictConfig:
        """The configuration as typed, Hydra's own node included."""
        with self._ready():
            return compose_cell(self.overrides, self.config_dirs)

    def compose(self, settings: Mapping[str, Value]) -> Composed:
        """The configuration with some settings on top of what was typed.

        Args:
            settings: value by configuration key or group.

        Raises:
            ConfigError: Hydra or OmegaConf refused; names the key.
        """
        return self.compose_words([override(key, value) for key, value in settings.items()])

    def compose_words(self, words: Sequence[str]) -> Composed:
        """The configuration with more overrides after what was typed.

        Args:
            words: in Hydra's grammar, without sweeps.

        Raises:
            ConfigError: Hydra or OmegaConf refused; names the key.
        """
        structural = tuple(word for word in words if self._is_structural(word))
        if structural not in self._bases:
            self._bases[structural] = self._compose_groups(structural)
        base, hydra = self._bases[structural]
        node = copy.deepcopy(base)
        for word in words:
            if word not in structural:
                _set(node, word)
        return Composed(node, hydra, (*self.overrides, *words))

    def choices(self, settings: Mapping[str, Value]) -> dict[str, str]:
        """What each configuration group is set to, for the given settings."""
        words = [override(key, value) for key, value in settings.items()]
        groups = [word for word in words if self._is_structural(word)]
        with self._ready():
            whole = compose_cell([*self.overrides, *groups], self.config_dirs)
        return {str(k): str(v) for k, v in whole.hydra.runtime.choices.items()}

    def _is_structural(self, word: str) -> bool:
        """Whether Hydra has to compose anew: groups, added and removed keys, its own node."""
        key = word.partition("=")[0]
        marked = key[:1] in "+~" or "@" in key or "/" in key or key.startswith("hydra.")
        return marked or key in self._known_groups()

    def _known_groups(self) -> frozenset[str]:
        if self.groups is None:
            self._bases[()] = self._compose_groups(())
            self.groups = group_names(self._bases[()][1])
        return self.groups

    def _compose_groups(self, words: Sequence[str]) -> tuple[DictConfig, DictConfig]:
        with self._ready():
            whole = compose_cell([*self.overrides, *words], self.config_dirs)
        own = [str(key) for key in whole if key != "hydra"]
        return OmegaConf.masked_copy(whole, own), OmegaConf.masked_copy(whole, ["hydra"])

    @contextmanager
    def _ready(self) -> Iterator[None]:
        """Keep Hydra's composition open for a while, unless somebody does already."""
        opened = GlobalHydra.instance().is_initialized()
        with nullcontext() if opened else hydra_ready(self.config_dirs):
            yield


def group_names(composed: DictConfig) -> frozenset[str]:
    """The configuration groups that were chosen from, of what Hydra composed."""
    return frozenset(str(group) for group in composed.hydra.runtime.choices)


def override(key: str, value: Value) -> str:
    """One setting as an override."""
    if value is None:
        return f"{key}=null"
    if isinstance(value, bool):
        return f"{key}={str(value).lower()}"
    return f"{key}={value!r}" if isinstance(value, float) else f"{key}={value}"


def _set(node: DictConfig, word: str) -> None:
    (parsed,) = parse([word])
    try:
        OmegaConf.update(node, parsed.key_or_group, parsed.value(), merge=True)
    except OmegaConfBaseException as error:
        raise explained(error, [word]) from error

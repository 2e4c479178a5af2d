"""Composing cells with Hydra: what was typed becomes one configuration, or an explained error."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from fedprivacy.config.resources import conf_dir
from fedprivacy.config.store import register
from fedprivacy.errors import ConfigError

CONFIG_NAME = "config"


@contextmanager
def hydra_ready(config_dirs: Sequence[str] = ()) -> Iterator[None]:
    """Initialise Hydra's composition; ``config_dirs`` are the user's own folders."""
    register()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(conf_dir(), version_base="1.3", job_name="fedprivacy"):
            yield
    finally:
        GlobalHydra.instance().clear()


def compose_cell(overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> DictConfig:
    """Compose one configuration, Hydra's own node included. Needs ``hydra_ready``.

    Raises:
        ConfigError: Hydra or OmegaConf refused; the message names key, value and choices.
    """
    extra = [f"hydra.searchpath=[{','.join(map(_folder, config_dirs))}]"]
    typed = [*overrides, *(extra if config_dirs else [])]
    try:
        return compose(CONFIG_NAME, overrides=typed, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise explained(error, overrides) from error


def _folder(path: str) -> str:
    """A folder as a quoted value of Hydra's grammar, whatever its name holds."""
    # In its quotes a quote is escaped, and so are backslashes in front of one.
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), path)
    return f"'file://{escaped}'"


def parse(overrides: Sequence[str]) -> list[Override]:
    """Parse overrides by Hydra's grammar.

    Raises:
        ConfigError: one of them is not an override.
    """
    try:
        return OverridesParser.create().parse_overrides(overrides=list(overrides))
    except HydraException as error:
        raise explained(error, overrides) from error


def explained(error: Exception, overrides: Sequence[str]) -> ConfigError:
    """Hydra's complaint as an error that names key, value, what is allowed and the fix."""
    text = " ".join(str(part) for part in (error, error.__cause__) if part)
    words = re.sub(r"\s+", " ", text).strip()
    for override in overrides:
        key, _, value = override.partition("=")
        bare = key.lstrip("+~")
        named = f"'{bare}/{value}'" in words or f"'{bare}'" in words or f"'{key}" in words
        if named or f"full_key: {bare} " in f"{words} ":
            return ConfigError(bare, value, _allowed(words), _fix(words, bare))
    return ConfigError("configuration", " ".join(overrides), words, "fedprivacy run --help")


_TYPES = {
    "Integer": "a whole number",
    "Float": "a number",
    "Boolean": "true or false",
    "List": "a list such as [1,2]",
}


def _allowed(words: str) -> str:
    wanted = re.search(r"could not be converted to (\w+)", words)
    if wanted:
        return _TYPES.get(wanted[1], f"a value of type {wanted[1]}")
    choices = re.search(
        r"Available options in '[^']*': ?(.*?)(?: Config search path| To |$)", words
    )
    if choices:
        return "one of " + ", ".join(
            name for name in choices.group(1).split() if not name.startswith("base_")
        )
    known = re.search(r"Key '([^']*)' is not in struct", words)
    if known:
        return f"a key of the schema; '{known.group(1)}' is not one"
    return words.split(" full_key")[0]


def _fix(words: str, key: str) -> str:
    if key.startswith("tuning.space"):
        added = "'++tuning.space={federation.lr:{low:0.1,high:2}}'"
        return f"add to the space with {added}, or declare it in a file: sweeps/NAME.yaml"
    if "Could not override" in words or "not in struct" in words:
        return "look the key up with: fedprivacy run --cfg job"
    if "Could not find" in words:
        return f"choose one of them for {key}"
    return f"set {key} to what is allowed; its default: fedprivacy run --cfg job"

"""Names lead to modules, and wrong names to a message."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fedprivacy.data.registry import dataset_names, get_dataset, get_generator, verify_dataset
from fedprivacy.errors import ConfigError


@pytest.mark.parametrize("name", dataset_names())
def test_every_dataset_is_there_under_its_name(name: str) -> None:
    dataset = get_dataset(name)
    assert dataset.name == name
    for method in ("prepare", "fingerprint", "load"):
        assert callable(getattr(dataset, method))


@pytest.mark.parametrize("name", sorted(set(dataset_names()) - {"wisconsin"}))
def test_every_stand_in_has_its_generator(name: str) -> None:
    assert callable(get_generator(name))


def test_unknown_names_are_told_what_there_is() -> None:
    with pytest.raises(ConfigError, match="one of wisconsin, higgs, ixi_tiny, breast_density"):
        get_dataset("mnist")
    with pytest.raises(ConfigError, match="dataset='mnist'"):
        verify_dataset("mnist", Path(), "real")
    with pytest.raises(ConfigError, match="real records only"):
        get_generator("wisconsin")


def test_verification_reaches_the_module(tmp_path: Path) -> None:
    assert verify_dataset("wisconsin", tmp_path, "real") == []
    assert verify_dataset("wisconsin", tmp_path, "synthetic") != []


def test_importing_the_registry_imports_no_dataset() -> None:
    """So that `fedprivacy data list` answers at once."""
    script = (
        "import sys, fedprivacy.data.registry as r; r.dataset_names(); "
        "print([m for m in ('torch', 'sklearn', 'nibabel') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr

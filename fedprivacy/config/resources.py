"""Where the shipped configuration lies: in the wheel, or in the checkout."""

from __future__ import annotations

from pathlib import Path


def resources_root() -> Path:
    """The folder that holds ``conf/`` and ``sweeps/``."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / "_resources"
    return shipped if (shipped / "conf").is_dir() else package.parent


def conf_dir() -> str:
    """Absolute path of the primary configuration folder."""
    return str(resources_root() / "conf")


def how_we_count() -> str:
    """The page that says what every number means, as Markdown."""
    return (resources_root() / "docs" / "how-we-count.md").read_text(encoding="utf-8")

"""The command line: subcommands, nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from fedprivacy import __version__
from fedprivacy.threads import leave

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("fedprivacy.sweep.command", "run one cell, or with -m or +sweeps=NAME a grid"),
    "tune": ("fedprivacy.tuning.command", "search settings that keep accuracy alive at a budget"),
    "report": ("fedprivacy.report.command", "tables and figures of finished sweeps"),
    "explain": ("fedprivacy.explain_command", "how a cell's epsilon follows from its ledger"),
    "data": ("fedprivacy.data.command", "list, download, verify or generate datasets"),
}


def usage() -> str:
    """The help text."""
    lines = [f"fedprivacy {__version__}: what does privacy cost, what does it prove?", ""]
    lines += [f"  fedprivacy {name:<8} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join([*lines, "", "fedprivacy COMMAND --help tells more."])


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns the exit status (0 ok, 1 failed, 2 bad input, 130 Ctrl-C)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else 2
    if words[0] == "--version":
        print(__version__)
        return 0
    if words[0] not in COMMANDS:
        print(f"error: unknown command {words[0]!r}\n\n{usage()}", file=sys.stderr)
        return 2
    command: Callable[[list[str]], int] = import_module(COMMANDS[words[0]][0]).main
    try:
        status = command(words[1:])
    except KeyboardInterrupt:
        status = 130
    # Called with words, this is a function of someone else's process, which goes on.
    return leave(status) if argv is None else status

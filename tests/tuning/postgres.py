"""A PostgreSQL server of the tests' own, from the system's package."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_USER = "nobody"


def binaries() -> Path | None:
    """The folder of ``initdb`` and ``pg_ctl``; None where there is no server."""
    found = shutil.which("initdb")
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    # The package's own binaries first: what is on the path may be a wrapper.
    return places[0].parent if places else (Path(found).parent if found else None)


@contextmanager
def server(bin_dir: Path) -> Iterator[str]:
    """Start a fresh server; yields the URL of an empty database. Never runs as root."""
    with tempfile.TemporaryDirectory(prefix="fedprivacy-pg-") as folder:
        data = Path(folder) / "data"
        data.mkdir()
        if os.geteuid() == 0:
            for path in (Path(folder), data):
                shutil.chown(path, _USER)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        _run(bin_dir / "initdb", "-D", data, "-U", "tests", "--auth=trust", "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
        log = Path(folder) / "server.log"
        _run(bin_dir / "pg_ctl", "-D", data, "-o", f"{options} -F", "-l", log, "-w", "start")
        try:
            yield f"postgresql+psycopg://tests@127.0.0.1:{port}/postgres"
        finally:
            _run(bin_dir / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")


def _run(program: Path, *words: object) -> None:
    command = [str(program), *map(str, words)]
    if os.geteuid() == 0:
        command = ["runuser", "-u", _USER, "--", *command]
    for attempt in range(3):
        # Its output must not be a pipe: the server inherits it and would keep it open.
        with tempfile.TemporaryFile() as said:
            done = subprocess.run(command, stdout=said, stderr=subprocess.STDOUT, cwd="/")
            said.seek(0)
            text = said.read().decode(errors="replace")
        if done.returncode == 0:
            return
        time.sleep(1 + attempt)
    raise RuntimeError(f"{' '.join(command)} failed: {text}")

"""Leaving in the middle of a site's work: no abort, no result, and the right exit status."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedprivacy.config.schema import EngineConf
from fedprivacy.federation.engines.inprocess import InProcessEngine, InProcessGrid, SiteThread
from fedprivacy.threads import SITE_THREAD

ENDLESS = """
import sys, threading, time
import fedprivacy.cli as cli
import torch

def work():
    big = torch.zeros(3_000, 3_000)
    while True:
        try:
            big @ big
        except BaseException:
            pass

def command(words):
    threading.Thread(target=work, name="fedprivacy-sites", daemon=True).start()
    time.sleep(0.5)
    print("heard of")
    raise KeyboardInterrupt

cli.import_module = lambda name: type("module", (), {"main": staticmethod(command)})
sys.argv = ["fedprivacy", "run"]
sys.exit(cli.main())
"""


def test_an_interruption_breaks_off_the_work_in_hand(sites: Callable[..., ClientApp]) -> None:
    entered, ended = threading.Event(), threading.Event()

    def endless(message: Message, context: Context) -> Message:
        try:
            while True:
                entered.set()
                time.sleep(0.001)
        finally:
            ended.set()

    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        assert isinstance(grid, InProcessGrid)
        thread: SiteThread = grid._thread
        work = partial(thread.run, [partial(endless, None, None)], 60)
        threading.Thread(target=work, daemon=True).start()
        assert entered.wait(5)
        raise KeyboardInterrupt

    engine = InProcessEngine(server, endless)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        engine.run(1, {}, EngineConf("inprocess"))
    assert ended.is_set()
    assert SITE_THREAD not in {thread.name for thread in threading.enumerate()}


@pytest.mark.slow
def test_a_site_that_cannot_be_broken_off_does_not_abort_the_program() -> None:
    done = subprocess.run([sys.executable, "-c", ENDLESS], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "heard of\n"), done.stderr
    assert "terminate called" not in done.stderr


def _interruptible() -> None:
    """Shells start background jobs with SIGINT ignored, which children would inherit."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.slow
def test_ctrl_c_in_the_middle_of_training(tmp_path: Path) -> None:
    settings = (
        "algorithm=none",
        "dataset=higgs",
        "dataset.size=demo",
        "federation.local_epochs=5000",
        "tracking.enabled=false",
    )
    run = subprocess.Popen(
        [sys.executable, "-m", "fedprivacy", "run", *settings, f"hydra.run.dir={tmp_path}"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_interruptible,
    )
    time.sleep(15)
    assert run.poll() is None
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=30)
    assert run.returncode == 130, said
    assert "terminate called" not in said
    assert "the same command resumes" in said
    assert not (tmp_path / "result.json").exists()

"""What tests of the command line may ask for: a folder, and two ways to give a command there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import JOBS, Invoke, Invoked, Spawn
from processes import ROOT


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory, with a module ``jobs`` in it."""
    (tmp_path / "jobs.py").write_text(JOBS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("TERM", "xterm")
    for name in ("TASKFLOW_DB", "TASKFLOW_TRACEBACK", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    for name in ("jobs", "plans", "orders"):
        sys.modules.pop(name, None)


@pytest.fixture
def invoke(folder: Path) -> Invoke:
    """Executes a command in this process."""
    from typer.testing import CliRunner

    from taskflow.cli.app import app

    def invoke(*words: str, stdin: str | None = None) -> Invoked:
        result = CliRunner().invoke(app, words, input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Invoked(result.exit_code, result.stdout, result.stderr)

    return invoke


@pytest.fixture
def spawn(folder: Path) -> Iterator[Spawn]:
    """Starts a command in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def spawn(*words: str, **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "taskflow.cli", *words],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )
        started.append(process)
        return process

    yield spawn
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()

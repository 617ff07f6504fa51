"""Types are behaviour: a wrong argument is an error at its call, in both type checkers.

In ``tests/typing``, a line that says ``type: ignore`` and ``pyright: ignore`` is one that must be
an error: where it is none, the checkers report the comment.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = Path(__file__).with_name("typing")
ROOT = CHECKS.parents[1]


def test_mypy_accepts_the_checks() -> None:
    """``mypy --strict`` agrees with every line of ``tests/typing``."""
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(CHECKS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_pyright_accepts_the_checks() -> None:
    """So does pyright in its strict mode."""
    pytest.importorskip("pyright")
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"]
    done = subprocess.run(
        [*command, "--project", str(CHECKS)], capture_output=True, text=True, cwd=ROOT
    )
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == len(list(CHECKS.glob("*.py")))
    found = [
        f"{each['range']['start']['line'] + 1}: {each['message']}"
        for each in report["generalDiagnostics"]
    ]
    assert found == []

"""The README's programs run, and say what it says."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_a_program_of_the_readme_runs_and_runs_again(program: str, tmp_path: Path) -> None:
    """Each in a folder of its own, twice: the second run is answered from the first one's file."""
    (tmp_path / "program.py").write_text(program)
    command = [sys.executable, "-W", "error", "program.py"]

    first, second = (
        subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        for _ in range(2)
    )

    assert (first.returncode, first.stderr) == (0, "")
    assert (second.returncode, second.stderr) == (0, "")
    assert second.stdout.splitlines()[-1] == first.stdout.splitlines()[-1]


def indented(docstring: str) -> str:
    """The program in a docstring: its first block of indented lines."""
    lines: list[str] = []
    for line in inspect.cleandoc(docstring).splitlines():
        if line.startswith("    ") or (lines and not line):
            lines.append(line)
        elif lines:
            break
    return textwrap.dedent("\n".join(lines))


@pytest.mark.parametrize(
    "name",
    ["crashes.everywhere", "replays", "doubles.faulty", "doubles.wrapped", "doubles.virtual"],
)
def test_a_program_of_the_tools_for_tests_runs(name: str, tmp_path: Path) -> None:
    """Each module of `taskflow.testing` shows one, and it says nothing on stderr."""
    module = importlib.import_module(f"taskflow.testing.{name}")
    (tmp_path / "program.py").write_text(indented(module.__doc__ or ""))
    done = subprocess.run(
        [sys.executable, "-W", "error", "program.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")

"""The README's programs run, and say what it says."""

from __future__ import annotations

import re
import subprocess
import sys
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

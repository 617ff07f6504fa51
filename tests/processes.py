"""Programs that tests start: their environment, and their modules in this process."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Self

import taskflow

ROOT = Path(taskflow.__file__).parents[1]
# The taskflow that is tested, wherever the program stands and works.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def module_of(program: Path) -> ModuleType:
    """The program as a module of its own in this process: the same functions, by the same names."""
    spec = importlib.util.spec_from_file_location(program.stem, program)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Workplace:
    """A folder with a database, and the processes that work there; none outlives the block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.db = folder / "taskflow.db"
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()

    def spawn(self, program: Path, *words: str) -> subprocess.Popen[bytes]:
        """Start ``program`` with the folder and ``words`` as its arguments."""
        process = subprocess.Popen(
            [sys.executable, str(program), str(self.folder), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
        )
        self.processes.append(process)
        return process

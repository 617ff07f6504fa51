"""Programs that tests start: their environment, and their modules in this process."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

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

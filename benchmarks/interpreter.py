"""The cost of an import, each in a fresh interpreter."""

import os
import subprocess
import sys

from benchmarks.case import Sample

__all__ = ("IMPORTS", "import_time")

# `import taskflow` alone loads next to nothing, because its names are loaded when they are first
# used. So all of them are: no program uses more.
IMPORTS = {
    "taskflow": "from taskflow import *",
    "its three dependencies": "import anyio, msgspec, aiosqlite",
    "LangGraph": "import langgraph.func, langgraph.checkpoint.sqlite.aio",
    "DBOS": "import dbos",
}
"""The import statement of a program that uses each library, by label."""

# Not passed on: installed packages have byte code, and a checkout is to have it too.
NO_BYTE_CODE = "PYTHONDONTWRITEBYTECODE"

PROGRAM = """
from time import perf_counter
started = perf_counter()
{statement}
print(perf_counter() - started)
"""


def import_time(statement: str) -> Sample:
    """The milliseconds that an import statement takes, without the interpreter's start.

    Raises ImportError where the import fails.
    """
    program = PROGRAM.format(statement=statement)
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != NO_BYTE_CODE},
    )
    if done.returncode:
        raise ImportError(done.stderr.strip().rpartition("\n")[2])

    seconds = float(done.stdout)
    return Sample(cost=seconds * 1e3, seconds=seconds)

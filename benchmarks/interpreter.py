"""The cost of an import, in a fresh interpreter for each."""

import subprocess
import sys

from benchmarks.case import Sample

__all__ = ("IMPORTS", "import_time")

IMPORTS = {
    "taskflow": ("taskflow",),
    "its three dependencies": ("anyio", "msgspec", "aiosqlite"),
    "LangGraph": ("langgraph.func", "langgraph.checkpoint.sqlite.aio"),
    "DBOS": ("dbos",),
}
"""Who is compared, by label: the modules that a program of theirs imports."""

PROGRAM = """
from time import perf_counter
started = perf_counter()
import {modules}
print(perf_counter() - started)
"""


def import_time(modules: tuple[str, ...]) -> Sample:
    """The milliseconds that importing these modules takes, the interpreter's start not counted.

    Raises ImportError where that does not succeed.
    """
    program = PROGRAM.format(modules=", ".join(modules))
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise ImportError(done.stderr.strip().rpartition("\n")[2])

    seconds = float(done.stdout)
    return Sample(cost=seconds * 1e3, seconds=seconds)

"""The process in which one contender is measured: ``python -m benchmarks.worker NAME FOLDER``.

It reads one case a line from its standard input and writes one `Answer` a line to its standard
output; everything else that the process prints goes to its standard error.
"""

import asyncio
import os
import shutil
import sys
import traceback
from pathlib import Path
from tempfile import mkdtemp

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from benchmarks.case import Case, Sample
from benchmarks.contenders import contender, opener
from benchmarks.measurement import fill, filling_of, measure
from benchmarks.session import OpenSession

__all__ = ("Answer",)

DATABASE = "bench.db"
WARM_UP_SIZE = 40
IN_FRESH_PROCESS = {"million", "paused"}


class Answer(Struct):
    """The worker's answer to a case: a sample, or the reason why there is none."""

    sample: Sample | None = None
    pragmas: str = ""
    error: str = ""


class Bench:
    """One contender with its databases: a filled one is made once and copied for each sample."""

    def __init__(self, open_session: OpenSession, folder: Path) -> None:
        self.open_session = open_session
        self.folder = folder
        self.filled: dict[Case, Path] = {}
        self.warm: set[tuple[str, str, str]] = set()
        self.pragmas = ""

    def sample(self, case: Case) -> Sample:
        kind = case.scenario, case.form, case.way
        if kind not in self.warm and case.scenario not in IN_FRESH_PROCESS:
            recorded = min(case.recorded, WARM_UP_SIZE)
            self.measured(replace(case, size=min(case.size, WARM_UP_SIZE), recorded=recorded))
            self.warm.add(kind)
        return self.measured(case)

    def measured(self, case: Case) -> Sample:
        path = self.database_for(case)
        try:
            return asyncio.run(measure(self.open_session, case, path))
        finally:
            shutil.rmtree(path.parent)

    def database_for(self, case: Case) -> Path:
        path = self.fresh_path()
        if (filling := filling_of(case)) is not None:
            self.copy(self.filled_for(filling), path)
        return path

    def filled_for(self, filling: Case) -> Path:
        if filling not in self.filled:
            path = self.fresh_path()
            asyncio.run(fill(self.open_session, filling, path))
            self.filled[filling] = path
        return self.filled[filling]

    def fresh_path(self) -> Path:
        return Path(mkdtemp(dir=self.folder)) / DATABASE

    def copy(self, source: Path, target: Path) -> None:
        for suffix in ("", "-wal"):
            if not Path(f"{source}{suffix}").exists():
                continue
            with open(f"{source}{suffix}", "rb") as old, open(f"{target}{suffix}", "wb") as new:
                shutil.copyfileobj(old, new)
                new.flush()
                # Otherwise the first commit of the measurement would pay for writing the copy.
                os.fsync(new.fileno())

    def read_pragmas(self) -> str:
        async def ask(path: Path) -> str:
            async with self.open_session(path) as session:
                return await session.pragmas()

        if not self.pragmas:
            path = self.fresh_path()
            self.pragmas = asyncio.run(ask(path))
            shutil.rmtree(path.parent)
        return self.pragmas


def main(name: str, folder: Path) -> None:
    """Answer cases until the standard input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    bench: Bench | None = None
    for line in sys.stdin.buffer:
        try:
            if bench is None:
                bench = Bench(opener(contender(name)), folder)
            sample = bench.sample(msgspec.json.decode(line, type=Case))
            answer = Answer(sample=sample, pragmas=bench.read_pragmas())
        except Exception as error:
            traceback.print_exc()
            said = str(error).replace(str(folder), "…")
            answer = Answer(error=f"{type(error).__name__}: {said}")
        answers.write(msgspec.json.encode(answer) + b"\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

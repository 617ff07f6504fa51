"""The suite's side of a worker process."""

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp
from threading import Timer

import msgspec

from benchmarks.case import Case
from benchmarks.worker import Answer

__all__ = ("WorkerProcess",)


class WorkerProcess:
    """One contender in an interpreter of its own, started at its first case."""

    def __init__(self, contender: str, folder: Path) -> None:
        self.contender = contender
        self.folder = Path(mkdtemp(dir=folder))
        self.log = self.folder / "log.txt"
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, case: Case, limit: float) -> Answer:
        """The worker's answer; after ``limit`` seconds it is killed, and the answer says so."""
        process = self.process or self.start()
        assert process.stdin is not None
        assert process.stdout is not None
        late = Timer(limit, process.kill)
        late.start()
        try:
            process.stdin.write(msgspec.json.encode(case) + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        finally:
            late.cancel()
        if line:
            return msgspec.json.decode(line, type=Answer)

        code = process.wait()
        self.process = None
        reason = f"stopped after {limit:.0f} s" if late.finished.is_set() and code == -9 else ""
        return Answer(error=reason or f"the process ended with {code}: {self.last_words()}")

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "benchmarks.worker", self.contender, str(self.folder)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
        return self.process

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def close(self) -> None:
        """End the process and remove its folder."""
        if self.process is not None:
            self.process.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)

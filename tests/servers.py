"""Real servers for tests: the examples, in processes of their own, and clients of them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from processes import ENVIRONMENT

DEADLINE = 30  # seconds until a server that does not answer is a failure
UNPROXIED = ENVIRONMENT | {"NO_PROXY": "127.0.0.1"}  # no proxy before this machine


def eventually(condition: Callable[[], Any]) -> Any:
    """What ``condition`` returns once that is true."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"{condition} stayed false for {DEADLINE} s")


class Server:
    """One `python -m <module>` in ``folder``, on a port that the system has chosen."""

    def __init__(self, module: str, folder: Path, *arguments: str) -> None:
        self.log = folder / f"server-{len(list(folder.glob('server-*')))}.log"
        command = [sys.executable, "-m", module, "--port", "0", *arguments]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=UNPROXIED, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self.url = f"http://127.0.0.1:{eventually(self._port)}"
            self.http = httpx.Client(base_url=self.url, timeout=DEADLINE, trust_env=False)
            eventually(self._answers)
        except BaseException:
            self.kill()
            raise

    def terminate(self) -> None:
        self.process.terminate()
        self.process.wait(DEADLINE)

    def kill(self) -> None:
        """``kill -9``, of the workers too: they are in the session that began with the process."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE)

    def _port(self) -> str | None:
        assert self.process.poll() is None, self.log.read_text()
        found = re.search(r"running on http://127\.0\.0\.1:(\d+)", self.log.read_text())
        return found and found[1]

    def _answers(self) -> bool:
        try:
            return bool(self.http.get("/openapi.json").is_success)
        except httpx.TransportError:
            return False

"""The example service: real servers, a real client, and the ways in which both go away."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

import taskflow

httpx = pytest.importorskip("httpx")
psutil = pytest.importorskip("psutil")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

DEADLINE = 30  # seconds until a server that does not answer is a failure
HELD = 9  # seconds that a slow provider holds an answer: less than the timeout of `charge`
# The taskflow that is tested, wherever the server works; and no proxy before this machine.
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(taskflow.__file__).parents[1]),
    "NO_PROXY": "127.0.0.1",
}
ORDER = {"id": "A1", "item": "lamp", "cents": 4900}


def eventually(condition: Callable[[], Any]) -> Any:
    """What ``condition`` returns once that is true."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"{condition} stayed false for {DEADLINE} s")


class Server:
    """One `python -m taskflow.examples.service`, on a port that the system has chosen."""

    def __init__(self, folder: Path, pool: ThreadPoolExecutor, *arguments: str) -> None:
        self.pool = pool
        self.log = folder / f"server-{len(list(folder.glob('server-*')))}.log"
        command = [sys.executable, "-m", "taskflow.examples.service", "--port", "0", *arguments]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self.url = f"http://127.0.0.1:{eventually(self._port)}"
            self.http = httpx.Client(base_url=self.url, timeout=DEADLINE, trust_env=False)
            eventually(self._answers)
        except BaseException:
            self.kill()
            raise

    def place(self, *, timeout: float = DEADLINE, **changes: Any) -> Any:
        return self.http.post("/orders", json=ORDER | changes, timeout=timeout)

    def placing(self) -> Future[Any]:
        """The same in another thread: a test that kills the server does not look at it."""
        return self.pool.submit(self.place)

    def place_again(self) -> Any:
        """None where a worker that was just killed still seemed to take requests."""
        try:
            return self.place()
        except httpx.TransportError:
            return None

    def status(self, order_id: str = "A1") -> str | None:
        return self.http.get(f"/orders/{order_id}").json().get("status")

    def charges(self) -> list[Any]:
        return self.http.get("/charges").json()["charges"]

    def terminate(self) -> None:
        self.process.terminate()
        self.process.wait(DEADLINE)

    def kill_workers(self) -> None:
        for worker in psutil.Process(self.process.pid).children(recursive=True):
            worker.kill()

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


Serve = Callable[..., Server]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts servers, and kills them when the test has ended."""
    with ExitStack() as clients, ThreadPoolExecutor() as pool, ExitStack() as servers:

        def start(*arguments: str) -> Server:
            server = Server(tmp_path, pool, *arguments)
            servers.callback(server.kill)
            clients.callback(server.http.close)
            return server

        yield start


@pytest.fixture
def provider(serve: Serve) -> Server:
    """Fails twice for each order, once before and once after it has charged."""
    return serve("provider")


@pytest.fixture
def slow_provider(serve: Serve) -> Server:
    """Charges at once and holds the answer: who dies meanwhile does not know of the charge."""
    return serve("provider", "--delay", str(HELD))


def test_a_repeated_order_is_answered_from_its_record(serve: Serve, provider: Server) -> None:
    """Nothing executes again: the second answer needs no provider."""
    shop = serve("--provider", provider.url)
    first = shop.place()
    provider.kill()
    again = shop.place()

    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()


def test_concurrent_orders_share_one_execution(serve: Serve, provider: Server) -> None:
    """Of two worker processes behind one port, whichever gets them."""
    shop = serve("--provider", provider.url, "--workers", "2")
    placed = [shop.placing() for _ in range(8)]
    receipts = [each.result().json() for each in placed]

    assert [receipt["order_id"] for receipt in receipts] == ["A1"] * 8
    assert receipts == [receipts[0]] * 8
    assert len(provider.charges()) == 1


def test_an_order_is_waited_for_in_another_process(serve: Serve, provider: Server) -> None:
    """Two services on one file: the second answers with what the first has executed."""
    first, second = (serve("--provider", provider.url) for _ in range(2))
    placed = first.placing()
    eventually(lambda: second.status() == "running")

    assert second.place().json() == placed.result().json()
    assert len(provider.charges()) == 1


def test_a_client_that_goes_away_stops_nothing(serve: Serve, provider: Server) -> None:
    """It leaves before the first retry; its order is shipped without it."""
    shop = serve("--provider", provider.url)
    with pytest.raises(httpx.ReadTimeout):
        shop.place(timeout=0.1)

    eventually(lambda: shop.status() == "success")
    assert len(provider.charges()) == 1


def test_a_killed_service_does_not_charge_twice(serve: Serve, slow_provider: Server) -> None:
    """It dies after the provider has charged and before it knows; the same order then finishes."""
    shop = serve("--provider", slow_provider.url)
    shop.placing()
    [charge] = eventually(slow_provider.charges)
    shop.kill()

    shop = serve("--provider", slow_provider.url)
    assert shop.status() == "running"
    assert shop.place().json()["charge_id"] == charge["id"]
    assert slow_provider.charges() == [charge]


def test_killed_workers_are_replaced_and_finish_the_order(
    serve: Serve, slow_provider: Server
) -> None:
    """The supervisor of two workers starts new ones, on the same file."""
    shop = serve("--provider", slow_provider.url, "--workers", "2")
    shop.placing()
    [charge] = eventually(slow_provider.charges)
    shop.kill_workers()

    assert eventually(shop.place_again).json()["charge_id"] == charge["id"]
    assert slow_provider.charges() == [charge]


def test_whoever_waits_takes_over_from_a_killed_process(
    serve: Serve, slow_provider: Server
) -> None:
    """The second service waits for the first one's result, and finishes the order instead."""
    first, second = (serve("--provider", slow_provider.url) for _ in range(2))
    first.placing()
    [charge] = eventually(slow_provider.charges)
    waiting = second.placing()
    first.kill()

    assert waiting.result().json()["charge_id"] == charge["id"]
    assert slow_provider.charges() == [charge]


def test_a_service_that_is_shut_down_leaves_orders_to_be_continued(
    serve: Serve, slow_provider: Server
) -> None:
    """SIGTERM: after its grace the order is cut off, not failed; the next service finishes it."""
    shop = serve("--provider", slow_provider.url)
    shop.placing()
    [charge] = eventually(slow_provider.charges)
    shop.terminate()

    shop = serve("--provider", slow_provider.url)
    assert shop.status() == "running"
    assert shop.place().json()["charge_id"] == charge["id"]
    assert slow_provider.charges() == [charge]


def test_another_order_under_the_same_id_is_a_conflict(serve: Serve, provider: Server) -> None:
    """While the first one executes, here or elsewhere, and for ever after."""
    here, elsewhere = (serve("--provider", provider.url) for _ in range(2))
    placed = here.placing()
    eventually(lambda: here.status() == "running")

    assert here.place(cents=1).status_code == elsewhere.place(cents=1).status_code == 409
    assert placed.result().status_code == 200
    assert here.place(cents=1).status_code == elsewhere.place(cents=1).status_code == 409
    assert [charge["cents"] for charge in provider.charges()] == [ORDER["cents"]]


def test_a_failed_charge_leaves_the_order_open(serve: Serve, provider: Server) -> None:
    """Declined is 402, no provider 502; the same order may be sent again."""
    shop = serve("--provider", provider.url)
    assert [shop.place(cents=200_000).status_code for _ in range(2)] == [402, 402]
    assert shop.status() == "error"

    provider.kill()
    unreachable = shop.place(id="A2")
    assert (unreachable.status_code, unreachable.headers["Retry-After"]) == (502, "1")


def test_a_store_that_fails_is_an_error_until_it_works(
    serve: Serve, provider: Server, tmp_path: Path
) -> None:
    """Somebody else holds the file for longer than the runtime waits."""
    shop = serve("--provider", provider.url)
    with closing(sqlite3.connect(tmp_path / "orders.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        locked = shop.place()
        other.execute("ROLLBACK")

    assert (locked.status_code, locked.headers["Retry-After"]) == (503, "1")
    assert str(tmp_path) not in locked.text
    assert shop.place().status_code == 200


def test_what_is_no_order_is_refused(serve: Serve) -> None:
    """Before a run is begun."""
    shop = serve()

    assert [
        shop.place(**each).status_code
        for each in (
            {"id": ""},
            {"id": "a/b"},
            {"id": "x" * 65},
            {"id": "A\0"},
            {"cents": 0},
            {"cents": 10**30},
        )
    ] == [422] * 6
    assert shop.http.get("/orders/A1").status_code == 404

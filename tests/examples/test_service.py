"""The example service: real servers, a real client, and the ways in which both go away."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

pytest.importorskip("httpx")
pytest.importorskip("psutil")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import httpx
import psutil
from servers import Server, eventually

HELD = 9  # seconds that a slow provider holds an answer: less than the timeout of `charge`
Order = dict[str, Any]


class Shop(Server):
    """One `python -m taskflow.examples.service`, and what its clients do."""

    def __init__(self, folder: Path, pool: ThreadPoolExecutor, *arguments: str) -> None:
        self.pool = pool
        super().__init__("taskflow.examples.service", folder, *arguments)

    def place(self, order: Order) -> Any:
        return self.http.post("/orders", json=order)

    def placing(self, order: Order) -> Future[Any]:
        """The same in another thread: a test that kills the server does not look at it."""
        return self.pool.submit(self.place, order)

    def place_again(self, order: Order) -> Any:
        """None where a worker that was just killed still seemed to take requests."""
        try:
            return self.place(order)
        except httpx.TransportError:
            return None

    def status(self, order: Order) -> Any:
        """Of the order's run; None before it is recorded."""
        return self.http.get(f"/orders/{order['id']}").json().get("status")

    def charges(self, order: Order) -> Any:
        """What the provider has charged for it."""
        charges = self.http.get("/charges").json()["charges"]
        return [charge for charge in charges if charge["order_id"] == order["id"]]

    def kill_workers(self) -> None:
        for worker in psutil.Process(self.process.pid).children(recursive=True):
            worker.kill()


Serve = Callable[..., Shop]


@contextmanager
def serving(folder: Path) -> Generator[Serve]:
    """Starts servers that work in ``folder``, and kills them in the end."""
    with ExitStack() as clients, ThreadPoolExecutor() as pool, ExitStack() as servers:

        def start(*arguments: str) -> Shop:
            server = Shop(folder, pool, *arguments)
            servers.callback(server.kill)
            clients.callback(server.http.close)
            return server

        yield start


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts servers for one test; they share one file of orders."""
    with serving(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Fails twice for each order, once before and once after it has charged."""
    with serving(tmp_path_factory.mktemp("provider")) as start:
        yield start("provider")


@pytest.fixture(scope="module")
def slow_provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Charges at once and holds the answer: who dies meanwhile does not know of the charge."""
    with serving(tmp_path_factory.mktemp("slow-provider")) as start:
        yield start("provider", "--delay", str(HELD))


@pytest.fixture
def order() -> Order:
    """An order that no provider knows yet."""
    return {"id": f"A-{uuid4().hex}", "item": "lamp", "cents": 4900}


def test_a_repeated_order_is_answered_from_its_record(serve: Serve, order: Order) -> None:
    """Nothing executes again: the second answer needs no provider."""
    provider = serve("provider")
    shop = serve("--provider", provider.url)
    first = shop.place(order)
    provider.kill()
    again = shop.place(order)

    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()


def test_concurrent_orders_share_one_execution(serve: Serve, provider: Shop, order: Order) -> None:
    """Of two worker processes behind one port, whichever gets them."""
    shop = serve("--provider", provider.url, "--workers", "2")
    placed = [shop.placing(order) for _ in range(8)]
    receipts = [each.result().json() for each in placed]

    assert [receipt["order_id"] for receipt in receipts] == [order["id"]] * 8
    assert receipts == [receipts[0]] * 8
    assert len(provider.charges(order)) == 1


def test_an_order_is_waited_for_in_another_process(
    serve: Serve, provider: Shop, order: Order
) -> None:
    """Two services on one file: the second answers with what the first has executed."""
    first, second = (serve("--provider", provider.url) for _ in range(2))
    placed = first.placing(order)
    eventually(lambda: second.status(order))

    assert second.place(order).json() == placed.result().json()
    assert len(provider.charges(order)) == 1


def test_a_client_that_goes_away_stops_nothing(serve: Serve, provider: Shop, order: Order) -> None:
    """Its order is shipped without it."""
    shop = serve("--provider", provider.url)
    with closing(HTTPConnection("127.0.0.1", shop.http.base_url.port)) as client:
        client.request("POST", "/orders", json.dumps(order), {"Content-Type": "application/json"})
        eventually(lambda: shop.status(order))

    eventually(lambda: shop.status(order) == "success")
    assert len(provider.charges(order)) == 1


def test_a_killed_service_does_not_charge_twice(
    serve: Serve, slow_provider: Shop, order: Order
) -> None:
    """It dies after the provider has charged and before it knows; the same order then finishes."""
    shop = serve("--provider", slow_provider.url)
    shop.placing(order)
    [charge] = eventually(lambda: slow_provider.charges(order))
    shop.kill()

    shop = serve("--provider", slow_provider.url)
    assert shop.status(order) == "running"
    assert shop.place(order).json()["charge_id"] == charge["id"]
    assert slow_provider.charges(order) == [charge]


def test_killed_workers_are_replaced_and_finish_the_order(
    serve: Serve, slow_provider: Shop, order: Order
) -> None:
    """The supervisor of two workers starts new ones, on the same file."""
    shop = serve("--provider", slow_provider.url, "--workers", "2")
    shop.placing(order)
    [charge] = eventually(lambda: slow_provider.charges(order))
    shop.kill_workers()

    assert eventually(lambda: shop.place_again(order)).json()["charge_id"] == charge["id"]
    assert slow_provider.charges(order) == [charge]


def test_whoever_waits_takes_over_from_a_killed_process(
    serve: Serve, slow_provider: Shop, order: Order
) -> None:
    """The second service waits for the first one's result, and finishes the order instead."""
    first, second = (serve("--provider", slow_provider.url) for _ in range(2))
    first.placing(order)
    [charge] = eventually(lambda: slow_provider.charges(order))
    waiting = second.placing(order)
    first.kill()

    assert waiting.result().json()["charge_id"] == charge["id"]
    assert slow_provider.charges(order) == [charge]


def test_a_service_that_is_told_to_stop_leaves_orders_to_be_continued(
    serve: Serve, slow_provider: Shop, order: Order
) -> None:
    """SIGTERM, which a supervisor passes on: who waits for an order is told to ask again."""
    shop = serve("--provider", slow_provider.url, "--workers", "2")
    placed = shop.placing(order)
    [charge] = eventually(lambda: slow_provider.charges(order))
    shop.terminate()

    answer = placed.result()
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    shop = serve("--provider", slow_provider.url)
    assert shop.status(order) == "running"
    assert shop.place(order).json()["charge_id"] == charge["id"]
    assert slow_provider.charges(order) == [charge]


def test_another_order_under_the_same_id_is_a_conflict(
    serve: Serve, provider: Shop, order: Order
) -> None:
    """While the first one executes, here or elsewhere, and for ever after."""
    here, elsewhere = (serve("--provider", provider.url) for _ in range(2))
    placed = here.placing(order)
    eventually(lambda: here.status(order))
    other = order | {"cents": 1}

    assert here.place(other).status_code == elsewhere.place(other).status_code == 409
    assert placed.result().status_code == 200
    assert here.place(other).status_code == elsewhere.place(other).status_code == 409
    assert [charge["cents"] for charge in provider.charges(order)] == [order["cents"]]


def test_a_failed_charge_leaves_the_order_open(serve: Serve, order: Order) -> None:
    """Declined is 402, no provider 502; the same order may be sent again."""
    provider = serve("provider")
    shop = serve("--provider", provider.url)
    dear = order | {"cents": 200_000}
    assert [shop.place(dear).status_code for _ in range(2)] == [402, 402]
    assert shop.status(dear) == "error"

    provider.kill()
    unreachable = shop.place(order | {"id": "A2"})
    assert (unreachable.status_code, unreachable.headers["Retry-After"]) == (502, "1")


def test_a_store_that_fails_is_an_error_until_it_works(
    serve: Serve, provider: Shop, order: Order, tmp_path: Path
) -> None:
    """Somebody else holds the file for longer than the runtime waits."""
    shop = serve("--provider", provider.url)
    with closing(sqlite3.connect(tmp_path / "orders.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        locked = shop.place(order)
        other.execute("ROLLBACK")

    assert (locked.status_code, locked.headers["Retry-After"]) == (503, "1")
    assert str(tmp_path) not in locked.text
    assert shop.place(order).status_code == 200


def test_what_is_no_order_is_refused(serve: Serve, order: Order) -> None:
    """Before a run is begun."""
    shop = serve()
    wrong: list[Order] = [{"id": each} for each in ("", "a/b", "x" * 65, "A\0")]
    wrong += [{"cents": each} for each in (0, 10**30, "much")]

    assert {shop.place(order | each).status_code for each in wrong} == {422}
    assert shop.http.get(f"/orders/{order['id']}").status_code == 404

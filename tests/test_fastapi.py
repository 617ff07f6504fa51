"""The lifespan that opens a runtime, and the dependency that hands it to handlers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from taskflow import MemoryStore, RunStatus, Runtime, StoreError, task, workflow

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi import APIRouter, FastAPI, Request, WebSocket
from httpx import ASGITransport, AsyncClient

from taskflow.fastapi import RuntimeDep, get_runtime, lifespan

pytestmark = pytest.mark.anyio


@task
async def double(number: int) -> int:
    return 2 * number


@workflow
async def doubled(number: int) -> int:
    return await double(number)


router = APIRouter()


@router.get("/doubled/{number}")
async def ask(number: int, runtime: RuntimeDep) -> int:
    return await runtime.run(doubled(number), thread_id=f"doubled-{number}")


@router.websocket("/doubled")
async def talk(socket: WebSocket, runtime: RuntimeDep) -> None:
    await socket.accept()
    number = await socket.receive_json()
    await socket.send_json(await runtime.run(doubled(number), thread_id=f"doubled-{number}"))
    await socket.close()


def app_with(**options: Any) -> FastAPI:
    app = FastAPI(**options)
    app.include_router(router)
    return app


@asynccontextmanager
async def served(app: FastAPI) -> AsyncGenerator[AsyncClient]:
    """A client of ``app`` while its lifespan is open, whose state a server puts into each scope."""
    async with app.router.lifespan_context(app) as state:

        async def server(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "state": dict(state or {})}, receive, send)

        async with AsyncClient(transport=ASGITransport(server), base_url="http://app") as client:
            yield client


async def test_handlers_get_the_runtime_that_the_lifespan_opened(tmp_path: Path) -> None:
    """An app may be started again: its runtime was closed, and finds what it had recorded."""
    app = app_with(lifespan=lifespan(Runtime(tmp_path / "taskflow.db")))

    for _ in range(2):
        async with served(app) as client:
            assert (await client.get("/doubled/4")).json() == 8


async def test_a_websocket_gets_it_too(runtime: Runtime) -> None:
    received = iter([{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "5"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(received)

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {"type": "websocket", "path": "/doubled", "query_string": b"", "headers": []}
    await app_with()({**scope, "state": {"taskflow_runtime": runtime}}, receive, send)

    assert [message.get("text") for message in sent] == [None, "10", None]


async def test_a_mounted_app_uses_the_runtime_of_the_app_around_it() -> None:
    app = FastAPI(lifespan=lifespan(Runtime(MemoryStore())))
    app.mount("/inner", app_with())

    async with served(app) as client:
        assert (await client.get("/inner/doubled/4")).json() == 8


async def test_a_lifespan_may_be_entered_in_another_one() -> None:
    @asynccontextmanager
    async def service(app: FastAPI) -> AsyncGenerator[dict[str, Any]]:
        async with lifespan(Runtime(MemoryStore()))(app) as state:
            yield {**state, "greeting": "hello"}

    app = app_with(lifespan=service)

    @app.get("/greeting")
    async def greet(request: Request) -> str:
        return str(request.state.greeting)

    async with served(app) as client:
        assert (await client.get("/greeting")).json() == "hello"
        assert (await client.get("/doubled/4")).json() == 8


async def test_an_app_does_not_start_without_its_store(tmp_path: Path) -> None:
    app = app_with(lifespan=lifespan(Runtime(tmp_path / "nowhere" / "taskflow.db")))

    with pytest.raises(StoreError, match="nowhere"):
        async with served(app):
            pass


async def test_an_app_without_a_lifespan_says_what_is_missing() -> None:
    with pytest.raises(RuntimeError, match=r"lifespan=lifespan\(Runtime"):
        async with served(app_with()) as client:
            await client.get("/doubled/4")


async def test_a_test_may_hand_in_a_runtime_of_its_own(runtime: Runtime) -> None:
    app = app_with()
    app.dependency_overrides[get_runtime] = lambda: runtime

    async with served(app) as client:
        assert (await client.get("/doubled/4")).json() == 8


async def test_an_order_goes_on_when_its_request_is_cancelled(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a middleware or a server does it for a client that went away."""
    pytest.importorskip("uvicorn")
    from taskflow.examples import service

    asked, answer = anyio.Event(), anyio.Event()

    async def charge(order_id: str, cents: int) -> str:
        asked.set()
        await answer.wait()
        return "paid"

    monkeypatch.setattr(service, "charge", task(charge))
    order = service.Order("A1", "lamp", 4900)
    async with anyio.create_task_group() as requests:
        requests.start_soon(service.place, order, runtime)
        await asked.wait()
        requests.cancel_scope.cancel()

    assert (await runtime.get("A1")).status == RunStatus.RUNNING
    answer.set()
    assert (await service.place(order, runtime)).charge_id == "paid"

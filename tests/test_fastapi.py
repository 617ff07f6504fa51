"""The lifespan that opens a runtime, and the dependency that hands it to handlers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from taskflow import MemoryStore, Runtime, RunStatus, StoreError, task, workflow

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi import APIRouter, FastAPI, Request, WebSocket
from fastapi.testclient import TestClient
from httpx import ASGITransport, AsyncClient

from taskflow.fastapi import RuntimeDep, get_runtime, lifespan


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


def test_handlers_get_the_runtime_that_the_lifespan_opened() -> None:
    with TestClient(app_with(lifespan=lifespan(Runtime(MemoryStore())))) as client:
        assert client.get("/doubled/4").json() == 8
        with client.websocket_connect("/doubled") as socket:
            socket.send_json(5)
            assert socket.receive_json() == 10


def test_an_app_may_be_started_again(tmp_path: Path) -> None:
    """Its runtime was closed in between, and finds what it had recorded."""
    app = app_with(lifespan=lifespan(Runtime(tmp_path / "taskflow.db")))

    for _ in range(2):
        with TestClient(app) as client:
            assert client.get("/doubled/4").json() == 8


def test_a_mounted_app_uses_the_runtime_of_the_app_around_it() -> None:
    app = FastAPI(lifespan=lifespan(Runtime(MemoryStore())))
    app.mount("/inner", app_with())

    with TestClient(app) as client:
        assert client.get("/inner/doubled/4").json() == 8


def test_a_lifespan_may_be_entered_in_another_one() -> None:
    @asynccontextmanager
    async def service(app: FastAPI) -> AsyncGenerator[dict[str, Any]]:
        async with lifespan(Runtime(MemoryStore()))(app) as state:
            yield {**state, "greeting": "hello"}

    app = app_with(lifespan=service)

    @app.get("/greeting")
    async def greet(request: Request) -> str:
        return str(request.state.greeting)

    with TestClient(app) as client:
        assert (client.get("/greeting").json(), client.get("/doubled/4").json()) == ("hello", 8)


def test_an_app_does_not_start_without_its_store(tmp_path: Path) -> None:
    app = app_with(lifespan=lifespan(Runtime(tmp_path / "nowhere" / "taskflow.db")))

    with pytest.raises(StoreError, match="nowhere"), TestClient(app):
        pass


def test_an_app_without_a_lifespan_says_what_is_missing() -> None:
    with pytest.raises(RuntimeError, match=r"lifespan=lifespan\(Runtime"):
        TestClient(app_with()).get("/doubled/4")


@pytest.mark.anyio
async def test_a_test_may_hand_in_a_runtime_of_its_own(runtime: Runtime) -> None:
    app = app_with()
    app.dependency_overrides[get_runtime] = lambda: runtime

    async with AsyncClient(transport=ASGITransport(app), base_url="http://app") as client:
        assert (await client.get("/doubled/4")).json() == 8


@pytest.mark.anyio
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

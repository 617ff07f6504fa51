"""The lifespan that opens a runtime, and the dependency that hands it to handlers."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from taskflow import MemoryStore, Runtime, RunUnfinished, emit, receive, task, workflow
from taskflow.errors import StoreError
from taskflow.events import Emitted
from taskflow.records import RunStatus

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi import APIRouter, FastAPI, Request, WebSocket
from httpx import ASGITransport, AsyncClient

from taskflow.fastapi import EventStream, RuntimeDep, get_runtime, lifespan, server_sent

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


@workflow
async def asked() -> str:
    await emit("asked\nyou")
    answer = await receive("answer", str)
    await emit("answered")
    return answer


class Response:
    """What a client gets of a response, and when it goes away."""

    def __init__(self) -> None:
        self.start: Any = None
        self.body = b""
        self.is_whole = False
        self.is_left = anyio.Event()
        self.has_changed = anyio.Event()

    async def receive(self) -> Any:
        await self.is_left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        assert not self.is_whole
        if message["type"] == "http.response.start":
            self.start = message
        else:
            self.body += message["body"]
            self.is_whole = not message["more_body"]
        self.has_changed.set()

    async def has(self, text: bytes) -> None:
        """Wait until ``text`` was sent."""
        with anyio.fail_after(10):
            while text not in self.body:
                self.has_changed = anyio.Event()
                await self.has_changed.wait()

    async def read(self, stream: EventStream, **state: Any) -> None:
        await stream({"type": "http", "state": state}, self.receive, self.send)


def test_an_event_is_sent_in_three_lines() -> None:
    """Whatever is in it: JSON has no line breaks."""
    event = Emitted(17, 1.5, "E1", "run", None, None, "ask", "a\nb")
    lines = server_sent(event).decode().split("\n")

    assert lines[:2] == ["id: 17", "event: emitted"]
    assert json.loads(lines[2].removeprefix("data: "))["value"] == "a\nb"
    assert lines[3:] == ["", ""]


async def test_a_stream_of_events_ends_with_the_run(runtime: Runtime) -> None:
    """It begins with what is recorded, and may not be kept or held back on its way."""
    response = Response()
    await runtime.start(asked(), thread_id="t")
    async with anyio.create_task_group() as group:
        group.start_soon(response.read, EventStream(runtime.subscribe("t")))
        await response.has(b"event: emitted")
        await runtime.send("t", "answer", "yes")

    headers = dict(response.start["headers"])
    assert response.start["status"] == 200
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert headers[b"cache-control"] == b"no-store"
    assert b"content-length" not in headers
    assert response.is_whole
    assert b"answered" in response.body
    assert response.body.split(b"\n\n")[-2].split(b"\n")[1] == b"event: run_completed"


async def test_a_stream_goes_on_after_the_last_event_id(runtime: Runtime) -> None:
    whole, rest = Response(), Response()
    await runtime.start(asked(), thread_id="t")
    await runtime.send("t", "answer", "yes")
    await whole.read(EventStream(runtime.subscribe("t")))
    chunks = whole.body.split(b"\n\n")
    seen = next(at for at, each in enumerate(chunks) if b"event: emitted" in each)
    number = int(chunks[seen].splitlines()[0].removeprefix(b"id: "))
    await rest.read(EventStream(runtime.subscribe("t", after=number)))

    def durable(chunk: bytes) -> bool:
        return b"event: emitted" in chunk or b"event: task_completed" in chunk

    assert list(filter(durable, rest.body.split(b"\n\n"))) == list(
        filter(durable, chunks[seen + 1 :])
    )
    assert b"answered" in rest.body


async def test_a_silent_stream_sends_comments(runtime: Runtime) -> None:
    """So that what is between does not close the connection."""
    response = Response()
    async with anyio.create_task_group() as group:
        group.start_soon(response.read, EventStream(runtime.subscribe("t"), heartbeat=0.01))
        await response.has(b"retry: 1000\n\n:\n\n:\n\n")
        group.cancel_scope.cancel()


async def test_a_stream_ends_when_its_client_goes_away(runtime: Runtime) -> None:
    """Nothing is sent to it any more, and nobody listens for it."""
    response = Response()
    subscription = runtime.subscribe("t")
    async with anyio.create_task_group() as group:
        group.start_soon(response.read, EventStream(subscription))
        await response.has(b"retry")
        response.is_left.set()

    assert not response.is_whole
    with pytest.raises(StopAsyncIteration):
        await anext(subscription)


async def test_a_stream_ends_when_the_runtime_is_drained(runtime: Runtime) -> None:
    """Also that of a run which only waits; its client asks the next server."""
    response, ending = Response(), anyio.Event()
    await runtime.start(asked(), thread_id="t")
    async with anyio.create_task_group() as group:
        group.start_soon(
            partial(response.read, taskflow_ending=ending), EventStream(runtime.subscribe("t"))
        )
        await response.has(b"event: emitted")
        ending.set()

    assert response.is_whole
    assert b"run_completed" not in response.body


class Bank:
    """A payment that executes until it is told to end, and something that follows it."""

    def __init__(self) -> None:
        self.begun, self.end = anyio.Event(), anyio.Event()

        @task
        async def pay() -> str:
            self.begun.set()
            await self.end.wait()
            return "paid"

        @task
        async def thank() -> None: ...

        @workflow
        async def paying() -> str:
            payment = await pay()
            await thank()
            return payment

        self.paying = paying


@workflow
async def nothing() -> None: ...


async def is_draining(runtime: Runtime) -> None:
    """Wait until it begins nothing any more."""
    with anyio.fail_after(10):
        for count in range(10_000):
            try:
                await runtime.run(nothing(), thread_id=f"probe-{count}")
            except RuntimeError:
                return


@pytest.fixture
def told() -> Iterator[list[int]]:
    """What a server is told, which has handlers for signals before it starts the app."""
    received: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(each, lambda number, _: received.append(number)) for each in numbers]
    yield received
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_to_the_server_drains_the_runtime_at_once(
    number: signal.Signals, told: list[int], tmp_path: Path
) -> None:
    """What executes ends, who waits is told so, and who asks then is asked to come again."""
    bank, runtime = Bank(), Runtime(tmp_path / "taskflow.db")
    servers = signal.getsignal(number)

    async with served(app_with(lifespan=lifespan(runtime, drain=30))) as client:
        handle = await runtime.start(bank.paying(), thread_id="t")
        await bank.begun.wait()
        signal.raise_signal(number)
        await is_draining(runtime)
        refused = await client.get("/doubled/4")
        bank.end.set()
        with pytest.raises(RunUnfinished):
            await handle.result()
        recorded = [each.name.rpartition(".")[2] for each in await runtime.tasks("t")]

    assert told == [number]
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert recorded == ["pay"]
    assert signal.getsignal(number) is servers


async def test_a_websocket_is_refused_while_the_runtime_is_drained(runtime: Runtime) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    ending = anyio.Event()
    ending.set()
    state = {"taskflow_runtime": runtime, "taskflow_ending": ending}
    scope: Any = {"type": "websocket", "path": "/doubled", "query_string": b"", "headers": []}
    await app_with()({**scope, "state": state}, receive, send)

    assert [message.get("status") for message in sent] == [503, None]


async def test_an_app_that_stops_by_itself_drains_too(tmp_path: Path) -> None:
    """Without a signal, as a server does after so many requests; the next process does the rest."""
    bank, runtime = Bank(), Runtime(tmp_path / "taskflow.db")
    async with anyio.create_task_group() as group:
        async with lifespan(runtime, drain=30)(None):
            handle = await runtime.start(bank.paying(), thread_id="t")
            await bank.begun.wait()

            async def end_when_draining() -> None:
                await is_draining(runtime)
                bank.end.set()

            group.start_soon(end_when_draining)
        with pytest.raises(RunUnfinished):
            await handle.result()

    async with Runtime(tmp_path / "taskflow.db", workflows=[bank.paying]) as runtime:
        assert len(await runtime.tasks("t")) == 1
        assert await runtime.resume("t") == "paid"


async def test_what_does_not_end_in_time_is_continued_later(tmp_path: Path) -> None:
    """It is cut off, as it would be without ``drain``."""
    bank, runtime = Bank(), Runtime(tmp_path / "taskflow.db")
    async with lifespan(runtime, drain=0.01)(None):
        await runtime.start(bank.paying(), thread_id="t")
        await bank.begun.wait()

    async with runtime:
        assert (await runtime.get("t")).status == RunStatus.RUNNING
        assert await runtime.tasks("t") == []


async def test_signals_are_left_alone_where_no_server_handles_them(told: list[int]) -> None:
    """The default action stays what it is; nor can a thread that is not the main one handle any."""

    async def handled() -> Any:
        async with lifespan(Runtime(MemoryStore()), drain=1)(None):
            return signal.getsignal(signal.SIGTERM)

    theirs = signal.getsignal(signal.SIGTERM)
    assert await handled() is not theirs
    assert await anyio.to_thread.run_sync(anyio.run, handled) is theirs
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert await handled() == signal.SIG_DFL


async def test_an_error_of_the_app_is_raised_as_it_is() -> None:
    """Not in a group: it is nobody else's."""
    with pytest.raises(ValueError, match="no pool"):
        async with lifespan(Runtime(MemoryStore()), drain=1)(None):
            raise ValueError("no pool")

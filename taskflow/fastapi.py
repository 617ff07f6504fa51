"""taskflow in FastAPI: a lifespan that opens a `Runtime`, a dependency that passes it to handlers,
and a response that streams a run's events.

    from taskflow.fastapi import EventStream, RuntimeDep, lifespan

    runtime = Runtime("orders.db", workflows=[fulfil], recover=True)
    app = FastAPI(lifespan=lifespan(runtime, drain=30))

    @app.post("/orders")
    async def place(order: Order, runtime: RuntimeDep) -> Receipt:
        return await runtime.run(fulfil(order), thread_id=order.id, wait=True)

    @app.get("/orders/{order_id}/events")
    async def watch(
        order_id: str, runtime: RuntimeDep, last_event_id: Annotated[int | None, Header()] = None
    ) -> EventStream:
        return EventStream(runtime.subscribe(order_id, after=last_event_id))

A request that is cancelled (by a middleware, or by a server that shuts down) cancels the run if no
other caller waits for it; a run begun by `Runtime.start` goes on. `taskflow.examples.service` shows
that, and `taskflow.examples.approval` a run that waits for people.

An app with a lifespan of its own enters this one in it, and yields this one's state with its own:

    @asynccontextmanager
    async def service(app: FastAPI) -> AsyncGenerator[dict[str, Any]]:
        async with lifespan(runtime)(app) as state, open_pool() as pool:
            yield {**state, "pool": pool}

A test without a lifespan passes a runtime to handlers by ``app.dependency_overrides[get_runtime]``.
Needs the extra ``taskflow-runtime[fastapi]``.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from types import FrameType
from typing import Annotated, Any, Final

import anyio
from anyio.abc import TaskGroup
from fastapi import Depends, HTTPException, Response
from fastapi.requests import HTTPConnection

from taskflow import Runtime
from taskflow.events import Event
from taskflow.loops.loop import current_loop
from taskflow.loops.promises import Latch
from taskflow.runtime.subscriptions import Subscription
from taskflow.wire.json import encode_plain

__all__ = ("EventStream", "RuntimeDep", "get_runtime", "lifespan", "server_sent")

STATE_KEY: Final = "taskflow_runtime"
ENDING_KEY: Final = "taskflow_ending"

RETRY_AFTER: Final = 1  # seconds before a client should ask again
# Seconds between signs of life on a stream: proxies close a connection that was silent for 60 s
# (nginx, AWS), some after 30.
HEARTBEAT: Final = 15.0


def lifespan(
    runtime: Runtime, *, drain: float | None = None
) -> Callable[[Any], AbstractAsyncContextManager[dict[str, Any]]]:
    """A lifespan for an app or a router: ``runtime`` is open for as long as the app serves.

    The app does not start where the store cannot be opened (StoreError). When it stops, runs that
    still execute are released: the same request, `Runtime.resume` or a runtime with
    ``recover=True`` continues them.

    With ``drain``, the executing tasks have that many seconds to end, and no task starts any more:
    see `Runtime.drain`. The drain begins as soon as the server receives SIGTERM or SIGINT, while it
    still waits for its requests. Handlers that wait for a run get RunUnfinished, further requests
    for a runtime are answered with 503, and an `EventStream` ends. Set the server's own limit
    (uvicorn's ``timeout_graceful_shutdown``) longer than ``drain``, or not at all: a request that
    the server cancels cancels the run that no other caller waits for. A further Ctrl-C cuts off the
    executing tasks.
    """

    @asynccontextmanager
    async def opened(app: Any) -> AsyncGenerator[dict[str, Any]]:
        async with runtime:
            if drain is None:
                yield {STATE_KEY: runtime}
                return

            ending, drained, patience, limit = anyio.Event(), Latch(), anyio.CancelScope(), drain

            async def drain_in_the_end() -> None:
                try:
                    await ending.wait()
                    with patience:
                        await runtime.drain(limit)
                except Exception as error:
                    drained.set_exception(error)
                finally:  # also if asyncio.run() cancels this task: the lifespan must not hang
                    drained.set_result()

            # Not in a task group, which would wrap the errors of the app's own lifespan.
            draining = current_loop().spawn(drain_in_the_end)
            with _told_to_stop(ending.set, patience.cancel):
                try:
                    yield {STATE_KEY: runtime, ENDING_KEY: ending}
                finally:
                    ending.set()
                    await drained.wait()
                    del draining

    return opened


def get_runtime(connection: HTTPConnection) -> Runtime:
    """The runtime that the app's lifespan opened, for a request or a WebSocket.

    Raises RuntimeError where no lifespan has provided one, and HTTPException (503, with
    Retry-After) while the runtime is being drained.
    """
    runtime = getattr(connection.state, STATE_KEY, None)
    if not isinstance(runtime, Runtime):
        raise RuntimeError(
            "this app has no Runtime: make it FastAPI(lifespan=lifespan(Runtime(…))); a lifespan "
            "around that one has to yield its state, and a TestClient is entered with 'with'"
        )
    ending: anyio.Event | None = getattr(connection.state, ENDING_KEY, None)
    if ending is not None and ending.is_set():
        raise HTTPException(503, "this server is stopping", {"Retry-After": str(RETRY_AFTER)})

    return runtime


RuntimeDep = Annotated[Runtime, Depends(get_runtime)]


def server_sent(event: Event) -> bytes:
    """An event in the form of an EventSource: ``id`` its number, ``event`` its type, ``data`` JSON.

    https://html.spec.whatwg.org/multipage/server-sent-events.html
    """
    kind = str(event.__struct_config__.tag)
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.number, kind.encode(), encode_plain(event))


class EventStream(Response):
    """A response that streams a subscription as server-sent events.

    A client that was disconnected sends the last ``id`` that it has seen as the header
    Last-Event-ID (an EventSource does so by itself): with that as ``subscribe(after=…)`` it gets
    every durable event once. At ``run_completed``, ``run_failed`` and a ``run_cancelled`` that is
    ``final`` the client has to close its EventSource, which would otherwise connect again. A
    comment every ``heartbeat`` seconds keeps proxies from closing the connection. The response ends
    with the subscription, when the client disconnects, or when the lifespan drains the runtime.
    """

    media_type = "text/event-stream"

    def __init__(self, events: Subscription, *, heartbeat: float = HEARTBEAT) -> None:
        # No proxy may cache events, or buffer them (nginx reads the second header).
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["Content-Length"]
        self._events = events
        self._heartbeat = heartbeat

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request: the ASGI application that every response is."""
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        ending: anyio.Event | None = scope.get("state", {}).get(ENDING_KEY)
        client = _Client(receive, send)
        async with anyio.create_task_group() as group, self._events:
            if ending is not None:
                group.start_soon(_end_with, group, ending.wait)
            group.start_soon(_end_with, group, client.gone)
            group.start_soon(client.beat, self._heartbeat)
            async for event in self._events:
                await client.send(server_sent(event))
            group.cancel_scope.cancel()
        await client.send(b"", more=False)


class _Client:
    """The client that reads a response, to which two tasks send."""

    def __init__(self, receive: Any, send: Any) -> None:
        self._receive = receive
        self._send = send
        self._sending = anyio.Lock()
        self._is_gone = False

    async def send(self, body: bytes, *, more: bool = True) -> None:
        async with self._sending:
            if not self._is_gone:
                await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def beat(self, interval: float) -> None:
        """Send the delay before a reconnection, then a comment every ``interval`` seconds."""
        await self.send(b"retry: %d\n\n" % (1000 * RETRY_AFTER))
        while True:
            await anyio.sleep(interval)
            await self.send(b":\n\n")

    async def gone(self) -> None:
        """Wait until the client has disconnected."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._is_gone = True


async def _end_with(group: TaskGroup, end: Callable[[], Awaitable[object]]) -> None:
    """Cancel ``group`` when ``end`` returns."""
    await end()
    group.cancel_scope.cancel()


@contextmanager
def _told_to_stop(stop: Callable[[], object], stop_now: Callable[[], object]) -> Iterator[None]:
    """Call ``stop`` on this event loop as soon as the server receives SIGTERM or SIGINT.

    A later SIGINT, at which uvicorn stops waiting too, calls ``stop_now``.

    Uvicorn installs its handlers with `signal.signal` before it enters the lifespan, and restores
    the earlier ones after it has left it. So its handlers are wrapped, and still called. Where
    there are none, as in a test, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    tell, tell_again = _threadsafe(stop), _threadsafe(stop_now)
    received: list[int] = []
    wrapped: dict[signal.Signals, tuple[Any, Any]] = {}

    def wrap(number: signal.Signals, server: Callable[[int, FrameType | None], Any]) -> None:
        def receive(_: int, frame: FrameType | None) -> None:
            if received and number == signal.SIGINT:
                tell_again()
            received.append(number)
            tell()
            server(number, frame)

        wrapped[number] = receive, signal.signal(number, receive)

    for number in (signal.SIGTERM, signal.SIGINT):
        if callable(server := signal.getsignal(number)):
            wrap(number, server)
    try:
        yield
    finally:
        for number, (ours, server) in wrapped.items():
            if signal.getsignal(number) is ours:
                signal.signal(number, server)


def _threadsafe(callback: Callable[[], object]) -> Callable[[], object]:
    """A function for any thread that has the event loop running now call ``callback``."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio

        token = trio.lowlevel.current_trio_token()
        return lambda: token.run_sync_soon(callback)
    return lambda: loop.call_soon_threadsafe(callback)

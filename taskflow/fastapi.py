"""taskflow in FastAPI: a lifespan opens a `Runtime`, a dependency hands it to handlers, and a
response tells a client what happens.

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

A request that is cancelled (by a middleware, by a server that shuts down) cancels the run that it
alone waits for; `Runtime.start` begins one that goes on. `taskflow.examples.service` shows that,
and `taskflow.examples.approval` a run that waits for people.

An app with a lifespan of its own enters this one in it, and passes on what it yields:

    @asynccontextmanager
    async def service(app: FastAPI) -> AsyncGenerator[dict[str, Any]]:
        async with lifespan(runtime)(app) as state, open_pool() as pool:
            yield {**state, "pool": pool}

A test without a lifespan gives handlers a runtime by ``app.dependency_overrides[get_runtime]``.
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
from taskflow.wire.codec import encode_plain

__all__ = ("EventStream", "RuntimeDep", "get_runtime", "lifespan", "server_sent")

STATE_KEY: Final = "taskflow_runtime"
ENDING_KEY: Final = "taskflow_ending"

# After how many seconds a client should ask again, and a reader has to hear something: proxies
# close a connection that was silent for 60 s (nginx, AWS), some after 30.
RETRY_AFTER: Final = 1
HEARTBEAT: Final = 15.0


def lifespan(
    runtime: Runtime, *, drain: float | None = None
) -> Callable[[Any], AbstractAsyncContextManager[dict[str, Any]]]:
    """A lifespan for an app or a router: ``runtime`` is open for as long as the app serves.

    The app does not start where the store cannot be opened (StoreError). When it stops, runs that
    still execute are released: the same request, `Runtime.resume` or a runtime with
    ``recover=True`` continues them.

    With ``drain``, tasks that execute then have so many seconds to end, and no other one starts:
    see `Runtime.drain`. That begins at once when the server is told to stop by SIGTERM or SIGINT,
    while it still waits for its requests. Handlers that wait for a run get RunUnfinished, further
    requests for a runtime are answered with 503, and an `EventStream` ends. Give the server more
    time than that (uvicorn's ``timeout_graceful_shutdown``), or none to keep: a request that it
    cancels takes the run with it that it alone waits for. Ctrl-C once more cuts off what executes.
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
                finally:  # also where asyncio.run() has cancelled this: nobody is to wait for it
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

    Raises RuntimeError where no lifespan has handed one on, and HTTPException (503, with
    Retry-After) while the runtime is being drained.
    """
    runtime = getattr(connection.state, STATE_KEY, None)
    if not isinstance(runtime, Runtime):
        raise RuntimeError(
            "this app has no Runtime: make it FastAPI(lifespan=lifespan(Runtime(…))); "
            "a lifespan around that one yields what it yields, and a TestClient is used in 'with'"
        )
    ending: anyio.Event | None = getattr(connection.state, ENDING_KEY, None)
    if ending is not None and ending.is_set():
        raise HTTPException(503, "this server is stopping", {"Retry-After": str(RETRY_AFTER)})

    return runtime


RuntimeDep = Annotated[Runtime, Depends(get_runtime)]


def server_sent(event: Event) -> bytes:
    """An event as an EventSource reads it: ``id`` is its number, ``event`` its type, ``data`` JSON.

    https://html.spec.whatwg.org/multipage/server-sent-events.html
    """
    kind = str(event.__struct_config__.tag)
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.number, kind.encode(), encode_plain(event))


class EventStream(Response):
    """A subscription as server-sent events, for as long as there are any.

    A client that was cut off sends the last ``id`` that it has seen as the header Last-Event-ID, an
    EventSource by itself: with that as ``subscribe(after=…)`` it gets every durable event once. At
    ``run_completed``, ``run_failed`` and a ``run_cancelled`` that is ``final`` the client closes
    its EventSource, which would ask again. Every ``heartbeat`` seconds a comment is sent, so that
    no proxy takes the connection for dead. The response ends with the subscription, and when the
    client goes away or the lifespan drains the runtime.
    """

    media_type = "text/event-stream"

    def __init__(self, events: Subscription, *, heartbeat: float = HEARTBEAT) -> None:
        # Nobody on the way is to keep events, or to hold them back (nginx reads the second one).
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
    """Who reads a response, while somebody else may send to him too."""

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
        """Say how soon to ask again after a cut, then a comment every ``interval`` seconds."""
        await self.send(b"retry: %d\n\n" % (1000 * RETRY_AFTER))
        while True:
            await anyio.sleep(interval)
            await self.send(b":\n\n")

    async def gone(self) -> None:
        """Wait until he is."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._is_gone = True


async def _end_with(group: TaskGroup, end: Callable[[], Awaitable[object]]) -> None:
    """Cancel ``group`` when ``end`` returns."""
    await end()
    group.cancel_scope.cancel()


@contextmanager
def _told_to_stop(stop: Callable[[], object], stop_now: Callable[[], object]) -> Iterator[None]:
    """Have ``stop`` called on this event loop as soon as the server gets SIGTERM or SIGINT.

    And ``stop_now`` at a SIGINT after that, at which uvicorn too does not wait any longer.
    Uvicorn installs its handlers with `signal.signal` before it enters the lifespan, and puts the
    earlier ones back after it has left it. So they are wrapped: what the server does on a signal
    it does as before. Where it handles none, as in a test, nothing is changed.
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
    """What has ``callback`` called by the event loop that is running now, soon."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio

        token = trio.lowlevel.current_trio_token()
        return lambda: token.run_sync_soon(callback)
    return lambda: loop.call_soon_threadsafe(callback)

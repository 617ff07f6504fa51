"""taskflow in FastAPI: a lifespan opens a `Runtime`, and a dependency hands it to handlers.

    from taskflow.fastapi import RuntimeDep, lifespan

    app = FastAPI(lifespan=lifespan(Runtime("orders.db", workflows=[fulfil])))

    @app.post("/orders")
    async def place(order: Order, runtime: RuntimeDep) -> Receipt:
        return await runtime.run(fulfil(order), thread_id=order.id, wait=True)

A request that is cancelled (by a middleware, by a server that shuts down) cancels the run that it
alone waits for; `Runtime.start` begins one that goes on. `taskflow.examples.service` shows that.

An app with a lifespan of its own enters this one in it, and passes on what it yields:

    @asynccontextmanager
    async def service(app: FastAPI) -> AsyncGenerator[dict[str, Any]]:
        async with lifespan(runtime)(app) as state, open_pool() as pool:
            yield {**state, "pool": pool}

A test without a lifespan gives handlers a runtime by ``app.dependency_overrides[get_runtime]``.
Needs the extra ``taskflow-runtime[fastapi]``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any, Final

from fastapi import Depends
from fastapi.requests import HTTPConnection

from taskflow import Runtime

__all__ = ("RuntimeDep", "get_runtime", "lifespan")

STATE_KEY: Final = "taskflow_runtime"


def lifespan(
    runtime: Runtime,
) -> Callable[[Any], AbstractAsyncContextManager[dict[str, Any]]]:
    """A lifespan for an app or a router: ``runtime`` is open for as long as the app serves.

    The app does not start where the store cannot be opened (StoreError). When it stops, runs that
    still execute are released: the same request, or ``Runtime.resume``, continues them.
    """

    @asynccontextmanager
    async def opened(app: Any) -> AsyncGenerator[dict[str, Any]]:
        async with runtime:
            yield {STATE_KEY: runtime}

    return opened


def get_runtime(connection: HTTPConnection) -> Runtime:
    """The runtime that the app's lifespan opened, for a request or a WebSocket.

    Raises RuntimeError where no lifespan has handed one on.
    """
    runtime = getattr(connection.state, STATE_KEY, None)
    if not isinstance(runtime, Runtime):
        raise RuntimeError(
            "this app has no Runtime: make it FastAPI(lifespan=lifespan(Runtime(…))); "
            "a lifespan around that one yields what it yields, and a TestClient is used in 'with'"
        )

    return runtime


RuntimeDep = Annotated[Runtime, Depends(get_runtime)]

"""A web service whose orders survive it: reserve, charge at a flaky provider, ship.

The provider and the service, in two terminals:

    python -m taskflow.examples.service provider
    python -m taskflow.examples.service --workers 2

An order, the same order again, and what happened:

    curl localhost:8000/orders --json '{"id": "A1", "item": "lamp", "cents": 4900}'
    curl localhost:8000/orders --json '{"id": "A1", "item": "lamp", "cents": 4900}'
    curl localhost:8000/orders/A1
    curl localhost:8001/charges

The second answer is the recorded first one, though the provider failed twice on the way: once
before it had charged, once after. Start the provider with ``--delay 8``, send another order,
``kill -9`` the service meanwhile, start it again and repeat the request: the order is finished, and
charged once. SIGTERM (or Ctrl-C) lets a charge that is under way end, and starts nothing more:
waiting clients are answered 503, and repeat the request. An order whose client does not is
finished by

    taskflow resume taskflow.examples.service:fulfil --thread A1 --db orders.db

Under another server: ``ORDERS_DB=orders.db uvicorn --workers 2 taskflow.examples.service:app``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import httpx
import uvicorn
from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import Field

from taskflow import (
    RetryPolicy,
    RunCancelled,
    RunNotFound,
    Runtime,
    RunUnfinished,
    TaskTimeout,
    ThreadBusy,
    current,
    task,
    workflow,
)
from taskflow.errors import HistoryMismatch, LeaseLost, StoreError
from taskflow.fastapi import RuntimeDep, lifespan

# Read when a server imports this module, which each of its worker processes does.
ORDERS_DB: Final = os.environ.get("ORDERS_DB", "orders.db")
PROVIDER_URL: Final = os.environ.get("PROVIDER_URL", "http://127.0.0.1:8001")
PROVIDER_DELAY: Final = float(os.environ.get("PROVIDER_DELAY", "0"))

DRAIN: Final = 12  # seconds for a charge to end when the service is told to stop; it has 10
POLL_INTERVAL: Final = 0.1  # seconds between looks at an order that another worker executes

OrderId = Annotated[str, Field(pattern=r"^[\w-]+$", max_length=64)]


# What the service does.


@dataclass(frozen=True)
class Order:
    """The body of a client's request."""

    id: OrderId
    item: Annotated[str, Field(max_length=200)]
    cents: Annotated[int, Field(gt=0, le=10_000_000)]


@dataclass(frozen=True)
class Receipt:
    """The answer to a client, the same for every repeated request."""

    order_id: str
    charge_id: str
    parcel: str


class CardError(ValueError):
    """The card was declined: a ValueError, which another attempt would only repeat."""


@task
async def reserve(item: str) -> str:
    """Put one ``item`` aside, and return the reservation."""
    return f"{item}-{secrets.token_hex(4)}"


@task(retry=RetryPolicy(max_attempts=5, initial_interval=0.2), timeout=10)
async def charge(order_id: str, cents: int) -> str:
    """Have the provider charge the customer, and return the charge's id. Raises CardError.

    After a crash or a lost answer it is unknown whether the provider has charged. The next attempt
    sends the same key, by which the provider finds the charge that it has made already.
    """
    async with httpx.AsyncClient(base_url=PROVIDER_URL, timeout=None) as http:
        response = await http.post(
            "/charges",
            json={"order_id": order_id, "cents": cents},
            headers={"Idempotency-Key": current().idempotency_key},
        )
    if response.status_code == 402:
        raise CardError(f"order {order_id}: {response.json()['detail']}")
    return str(response.raise_for_status().json()["id"])


@task
async def ship(reservation: str, charge_id: str) -> str:
    """Send the reserved item, and return the parcel's number."""
    return f"parcel-{secrets.token_hex(4)}"


@workflow
async def fulfil(order: Order) -> Receipt:
    """One order, from the shelf to the post."""
    reservation = await reserve(order.item)
    charge_id = await charge(order.id, order.cents)
    return Receipt(order.id, charge_id, await ship(reservation, charge_id))


# How it is served.

runtime = Runtime(ORDERS_DB, workflows=[fulfil])
app = FastAPI(title="Orders", lifespan=lifespan(runtime, drain=DRAIN))


@app.post("/orders")
async def place(order: Order, runtime: RuntimeDep) -> Receipt:
    """Fulfil an order; the same order again is the same run, here or in another worker.

    With the order's id as ``run_id``, another body under the same id is refused, even when the
    first is done, and the provider's key stays the same, even when this database is lost. A run
    begun by ``start`` goes on when this request is cancelled.
    """
    while True:
        try:
            handle = await runtime.start(fulfil(order), thread_id=order.id, run_id=order.id)
        except ThreadBusy as busy:
            if not busy.same_run:
                raise
            await asyncio.sleep(POLL_INTERVAL)  # another worker executes it, or has just died
        else:
            return await handle.result()


@app.get("/orders/{order_id}")
async def show(order_id: OrderId, runtime: RuntimeDep) -> dict[str, Any]:
    """The status of an order, its recorded calls, and its receipt."""
    run = await runtime.get(order_id)
    calls = await runtime.tasks(order_id)
    return {
        "status": run.status,
        "tasks": [{"name": call.name, "attempts": call.attempts} for call in calls],
        "receipt": run.result,
    }


# The answers to errors, never with the error's own text, which names files and other orders.
ANSWERS: Final[dict[type[Exception], tuple[int, str]]] = {
    CardError: (402, "the card was declined: the same order may be sent again"),
    RunNotFound: (404, "there is no such order"),
    HistoryMismatch: (409, "this id belongs to an order with another content"),
    ThreadBusy: (409, "this id belongs to an order that is under way"),
    RunCancelled: (410, "this order was cancelled"),
    httpx.HTTPError: (502, "the payment provider fails"),
    TaskTimeout: (504, "the payment provider does not answer"),
    StoreError: (503, "orders cannot be recorded"),
    RunUnfinished: (503, "this service stops: the next one goes on with the order"),
    LeaseLost: (503, "another worker has this order"),
}


async def explain(request: Request, error: Exception) -> JSONResponse:
    """Answer a request that failed; after a status of the 500s, the same request may succeed."""
    status, detail = next(ANSWERS[kind] for kind in type(error).__mro__ if kind in ANSWERS)
    headers = {"Retry-After": "1"} if status >= 500 else None
    return JSONResponse({"detail": detail}, status, headers)


for kind in ANSWERS:
    app.add_exception_handler(kind, explain)


# The provider, a separate program that completes the example.


@dataclass(frozen=True)
class Bill:
    """The body of the service's request."""

    order_id: str
    cents: int


@dataclass(frozen=True)
class Charge:
    """A charge that the provider has made."""

    id: str
    order_id: str
    cents: int


provider = FastAPI(title="A flaky payment provider")
asked: Counter[str] = Counter()  # requests by idempotency key
charges: dict[str, Charge] = {}  # by idempotency key


@provider.post("/charges")
async def create_charge(bill: Bill, idempotency_key: Annotated[str, Header()]) -> Charge:
    """Charge once per key; the first request fails before the charge, the second one after it."""
    asked[idempotency_key] += 1
    if asked[idempotency_key] == 1:
        raise HTTPException(503, "not now")
    if bill.cents > 100_000:
        raise HTTPException(402, "the card was declined")

    if idempotency_key not in charges:
        charges[idempotency_key] = Charge(secrets.token_hex(4), bill.order_id, bill.cents)
        await asyncio.sleep(PROVIDER_DELAY)
    if asked[idempotency_key] == 2:
        raise HTTPException(503, "charged, but the answer got lost")
    return charges[idempotency_key]


@provider.get("/charges")
async def list_charges() -> dict[str, Any]:
    """Every charge, and the number of requests in all."""
    return {"requests": asked.total(), "charges": list(charges.values())}


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the orders, or the provider."""
    parser = argparse.ArgumentParser(prog="python -m taskflow.examples.service")
    parser.add_argument("part", nargs="?", choices=["orders", "provider"], default="orders")
    parser.add_argument("--port", type=int, help="default: 8000, and 8001 for the provider")
    parser.add_argument("--db", default=ORDERS_DB, help="the orders' file (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes for the orders")
    parser.add_argument("--provider", default=PROVIDER_URL, metavar="URL", help="(%(default)s)")
    parser.add_argument(
        "--delay",
        type=float,
        default=0,
        help="seconds between the provider's charge and its answer",
    )
    chosen = parser.parse_args(arguments)
    os.environ["ORDERS_DB"] = chosen.db
    os.environ["PROVIDER_URL"] = chosen.provider
    os.environ["PROVIDER_DELAY"] = str(chosen.delay)
    is_provider = chosen.part == "provider"
    port = (8001 if is_provider else 8000) if chosen.port is None else chosen.port
    uvicorn.run(
        f"taskflow.examples.service:{'provider' if is_provider else 'app'}",
        port=port,
        workers=1 if is_provider else chosen.workers,
        timeout_graceful_shutdown=DRAIN + 3,
    )


if __name__ == "__main__":
    main()

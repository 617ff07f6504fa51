"""Expenses that wait for people: one is asked, reminded, and at last a second one is asked too.

    python -m taskflow.examples.approval

and a look at http://localhost:8000, or

    curl localhost:8000/expenses --json '{"id": "E1", "what_for": "a lamp", "cents": 4900}'
    curl localhost:8000/expenses/E1
    curl -N localhost:8000/expenses/E1/events &
    curl localhost:8000/expenses/E1/answers --json '{"by": "Ann", "approved": true}'

``kill -9`` the service while it waits, for a minute or a month, and start it again: it has
forgotten nobody, reminds whom it should have reminded meanwhile, and pays once. Who watched goes on
where he was cut off:

    curl -N localhost:8000/expenses/E1/events -H 'Last-Event-ID: 12'

An answer that is sent twice with one ``Idempotency-Key`` (a double click, a proxy that tries
again) counts once. Under another server:
``APPROVAL_DB=approval.db uvicorn taskflow.examples.approval:app``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import uvicorn
from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import Field

from taskflow import (
    Call,
    RunCancelled,
    RunNotFound,
    Runtime,
    RunUnfinished,
    ThreadBusy,
    current,
    emit,
    race,
    receive,
    task,
    workflow,
)
from taskflow.errors import HistoryMismatch, StoreError
from taskflow.fastapi import EventStream, RuntimeDep, lifespan
from taskflow.records import RunRecord

# Read when a server imports this module: each of its worker processes does so for itself.
APPROVAL_DB: Final = os.environ.get("APPROVAL_DB", "approval.db")
BANK_DELAY: Final = float(os.environ.get("BANK_DELAY", "0"))

DRAIN: Final = 20  # seconds for what executes to end, when the service is told to stop
PAGE: Final = Path(__file__).with_suffix(".html")

ExpenseId = Annotated[str, Field(pattern=r"^[\w-]+$", max_length=64)]
Seconds = Annotated[float, Field(gt=0, le=31_536_000)]
Person = Literal["Ann", "Bob"]


# What the service does.


@dataclass(frozen=True)
class Expense:
    """What somebody would like to spend."""

    id: ExpenseId
    what_for: Annotated[str, Field(min_length=1, max_length=200)]
    cents: Annotated[int, Field(gt=0, le=10_000_000)]
    remind_after: Seconds = 3600  # without an answer Ann is reminded
    escalate_after: Seconds = 86400  # from then on; Bob is asked too


@dataclass(frozen=True)
class Answer:
    """What Ann or Bob says to that."""

    by: Person
    approved: bool
    comment: Annotated[str, Field(max_length=1000)] = ""


@dataclass(frozen=True)
class Decision:
    """What came of it."""

    answer: Answer
    payment: str | None


@task
async def notify(person: Person, message: str) -> None:
    """Send a mail, say; here it is only printed."""
    print(f"to {person}: {message}", flush=True)


@task
async def pay(expense: Expense) -> str:
    """Have the bank pay; the payment's number.

    A crash in here leaves open whether the bank has paid. So it is asked again with the same key,
    and knows what it has done already.
    """
    await asyncio.sleep(BANK_DELAY)
    payment = current().idempotency_key[:8]
    print(f"the bank pays {expense.cents} cents for {expense.id}, once: {payment}", flush=True)
    return payment


def answer_of(person: Person, question: str, timeout: float | None = None) -> Call[Answer]:
    """The answer of one person. Raises TimeoutError."""
    return receive(f"answer of {person}", Answer, prompt=question, timeout=timeout)


@workflow
async def approve(expense: Expense) -> Decision:
    """One expense, from its draft to its payment."""
    await emit("drafted")
    answer = await ask(expense)
    await emit(f"{'approved' if answer.approved else 'declined'} by {answer.by}")
    payment = await pay(expense) if answer.approved else None
    if payment is not None:
        await emit("paid")
    return Decision(answer, payment)


@workflow
async def ask(expense: Expense) -> Answer:
    """Who answers first decides. An answer that comes between two questions is not lost."""
    question = f"May we spend {expense.cents / 100:.2f} on {expense.what_for}?"
    await notify("Ann", question)
    await emit("asked Ann")
    try:
        return await answer_of("Ann", question, expense.remind_after)
    except TimeoutError:
        await notify("Ann", f"Again: {question}")
        await emit("reminded Ann")
    try:
        return await answer_of("Ann", question, expense.escalate_after)
    except TimeoutError:
        await notify("Bob", f"Ann does not answer. {question}")
        await emit("escalated to Bob")
    return await race(answer_of("Ann", question), answer_of("Bob", question))


# How it is served.

runtime = Runtime(APPROVAL_DB, workflows=[approve], recover=True)
app = FastAPI(title="Expenses", lifespan=lifespan(runtime, drain=DRAIN))


@app.get("/")
async def page() -> HTMLResponse:
    """All of it for people: one page, which needs nothing else."""
    return HTMLResponse(PAGE.read_text())


@app.post("/expenses", status_code=202)
async def draft(expense: Expense, runtime: RuntimeDep) -> dict[str, Any]:
    """Begin to ask about an expense; the same one again is the same run."""
    try:
        await runtime.start(approve(expense), thread_id=expense.id, run_id=expense.id)
    except ThreadBusy as busy:
        if not busy.same_run:
            raise
        # Another worker of this service has it.
    return shown(await runtime.get(expense.id))


@app.get("/expenses")
async def list_expenses(runtime: RuntimeDep) -> list[dict[str, Any]]:
    """The latest ones, newest first."""
    return [shown(run) for run in await runtime.runs(workflow=approve, limit=50)]


@app.get("/expenses/{expense_id}")
async def show(expense_id: ExpenseId, runtime: RuntimeDep) -> dict[str, Any]:
    """How far an expense is, who is asked what until when, and what was decided."""
    return shown(await runtime.get(expense_id))


@app.post("/expenses/{expense_id}/answers", status_code=202)
async def answer(
    expense_id: ExpenseId,
    answer: Answer,
    runtime: RuntimeDep,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> None:
    """Answer for Ann or Bob; once for each key, however often it is sent."""
    try:
        await runtime.send(expense_id, f"answer of {answer.by}", answer, id=idempotency_key)
    except RunNotFound:
        await runtime.get(expense_id)
        raise HTTPException(409, "this expense is decided") from None


@app.get("/expenses/{expense_id}/events")
async def watch(
    expense_id: ExpenseId,
    runtime: RuntimeDep,
    last_event_id: Annotated[int | None, Header()] = None,
) -> EventStream:
    """What happens, as it happens: server-sent events."""
    run = await runtime.get(expense_id)
    return EventStream(runtime.subscribe(expense_id, run_id=run.run_id, after=last_event_id))


def shown(run: RunRecord) -> dict[str, Any]:
    """What a client is told of an expense."""
    return {
        "expense": run.input["expense"],
        "status": run.status,
        "waits": [
            {
                "name": wait.name,
                "prompt": wait.prompt,
                "schema": wait.schema,
                "deadline": wait.deadline,
            }
            for wait in run.waits
        ],
        "decision": run.result,
    }


# What a client reads: never the error's own text, which names files and other people's expenses.
ANSWERS: Final[dict[type[Exception], tuple[int, str]]] = {
    RunNotFound: (404, "there is no such expense"),
    HistoryMismatch: (409, "this id belongs to an expense with another content"),
    ThreadBusy: (409, "this id belongs to an expense that is under way"),
    RunCancelled: (410, "this expense was cancelled"),
    StoreError: (503, "expenses cannot be recorded"),
    RunUnfinished: (503, "this service stops: the next one goes on with the expense"),
}


async def explain(request: Request, error: Exception) -> JSONResponse:
    """Answer for an error; after a status of the 500s the same request may well succeed."""
    status, detail = next(ANSWERS[kind] for kind in type(error).__mro__ if kind in ANSWERS)
    headers = {"Retry-After": "1"} if status >= 500 else None
    return JSONResponse({"detail": detail}, status, headers)


for kind in ANSWERS:
    app.add_exception_handler(kind, explain)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve it."""
    parser = argparse.ArgumentParser(prog="python -m taskflow.examples.approval")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--db", default=APPROVAL_DB, help="the expenses' file (%(default)s)")
    parser.add_argument(
        "--bank-delay", type=float, default=0, help="seconds that a payment takes (%(default)s)"
    )
    chosen = parser.parse_args(arguments)
    os.environ["APPROVAL_DB"] = chosen.db
    os.environ["BANK_DELAY"] = str(chosen.bank_delay)
    uvicorn.run("taskflow.examples.approval:app", port=chosen.port)


if __name__ == "__main__":
    main()

"""Expenses that wait for people: one person is asked, then reminded, then a second is asked too.

    python -m taskflow.examples.approval

Then open http://localhost:8000, or

    curl localhost:8000/expenses --json '{"id": "E1", "what_for": "a lamp", "cents": 4900}'
    curl localhost:8000/expenses/E1
    curl -N localhost:8000/expenses/E1/events &
    curl localhost:8000/expenses/E1/answers --json '{"by": "Ann", "approved": true}'

``kill -9`` the service while it waits, for a minute or a month, and start it again: it continues
every expense, sends the reminders that became due meanwhile, and pays once. A client that watched
continues after the last event that it has seen:

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

# Read when a server imports this module, which each of its worker processes does.
APPROVAL_DB: Final = os.environ.get("APPROVAL_DB", "approval.db")
BANK_DELAY: Final = float(os.environ.get("BANK_DELAY", "0"))

DRAIN: Final = 20  # seconds for the executing tasks to end when the service is told to stop
PAGE: Final = Path(__file__).with_suffix(".html")

ExpenseId = Annotated[str, Field(pattern=r"^[\w-]+$", max_length=64)]
Seconds = Annotated[float, Field(gt=0, le=31_536_000)]
Person = Literal["Ann", "Bob"]


# What the service does.


@dataclass(frozen=True)
class Expense:
    """An amount of money to be approved."""

    id: ExpenseId
    what_for: Annotated[str, Field(min_length=1, max_length=200)]
    cents: Annotated[int, Field(gt=0, le=10_000_000)]
    remind_after: Seconds = 3600  # after this time without an answer Ann is reminded
    escalate_after: Seconds = 86400  # after this time from the reminder Bob is asked too


@dataclass(frozen=True)
class Answer:
    """The answer of Ann or Bob to an expense."""

    by: Person
    approved: bool
    comment: Annotated[str, Field(max_length=1000)] = ""


@dataclass(frozen=True)
class Decision:
    """The deciding answer, and the payment's number if there is one."""

    answer: Answer
    payment: str | None


@task
async def notify(person: Person, message: str) -> None:
    """Print a message; a real service would send a mail."""
    print(f"to {person}: {message}", flush=True)


@task
async def pay(expense: Expense) -> str:
    """Have the bank pay, and return the payment's number.

    After a crash it is unknown whether the bank has paid. The next attempt sends the same key, by
    which the bank finds the payment that it has made already.
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
    """The first answer decides. An answer that comes between two questions is not lost."""
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
    """The page for people, self-contained."""
    return HTMLResponse(PAGE.read_text())


@app.post("/expenses", status_code=202)
async def draft(expense: Expense, runtime: RuntimeDep) -> dict[str, Any]:
    """Start the approval of an expense; the same expense again is the same run."""
    try:
        await runtime.start(approve(expense), thread_id=expense.id, run_id=expense.id)
    except ThreadBusy as busy:
        if not busy.same_run:
            raise
        # Another worker of this service executes it.
    return shown(await runtime.get(expense.id))


@app.get("/expenses")
async def list_expenses(runtime: RuntimeDep) -> list[dict[str, Any]]:
    """The latest ones, newest first."""
    return [shown(run) for run in await runtime.runs(workflow=approve, limit=50)]


@app.get("/expenses/{expense_id}")
async def show(expense_id: ExpenseId, runtime: RuntimeDep) -> dict[str, Any]:
    """The status of an expense, its open questions, and the decision."""
    return shown(await runtime.get(expense_id))


@app.post("/expenses/{expense_id}/answers", status_code=202)
async def answer(
    expense_id: ExpenseId,
    answer: Answer,
    runtime: RuntimeDep,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> None:
    """Take an answer of Ann or Bob; one sent again with the same key counts once."""
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
    """The events of an expense, as server-sent events."""
    run = await runtime.get(expense_id)
    return EventStream(runtime.subscribe(expense_id, run_id=run.run_id, after=last_event_id))


def shown(run: RunRecord) -> dict[str, Any]:
    """The form in which clients see an expense."""
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


# The answers to errors, never with the error's own text, which names files and other expenses.
ANSWERS: Final[dict[type[Exception], tuple[int, str]]] = {
    RunNotFound: (404, "there is no such expense"),
    HistoryMismatch: (409, "this id belongs to an expense with another content"),
    ThreadBusy: (409, "this id belongs to an expense that is under way"),
    RunCancelled: (410, "this expense was cancelled"),
    StoreError: (503, "expenses cannot be recorded"),
    RunUnfinished: (503, "this service stops: the next one goes on with the expense"),
}


async def explain(request: Request, error: Exception) -> JSONResponse:
    """Answer a request that failed; after a status of the 500s, the same request may succeed."""
    status, detail = next(ANSWERS[kind] for kind in type(error).__mro__ if kind in ANSWERS)
    headers = {"Retry-After": "1"} if status >= 500 else None
    return JSONResponse({"detail": detail}, status, headers)


for kind in ANSWERS:
    app.add_exception_handler(kind, explain)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the expenses."""
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

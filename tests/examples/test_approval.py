"""The example approval: a real server that waits for people, and everything that it outlives."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

pytest.importorskip("httpx")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from servers import DEADLINE, Server, eventually

SOON = 0.2  # seconds until somebody is reminded, or another one asked
NEVER = 3600
DURABLE = {"task_completed", "task_failed", "emitted"}
Expense = dict[str, Any]
Sent = dict[str, Any]  # an event as it was sent: id, event, data


class Office(Server):
    """The service, and what people do with it."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        super().__init__("taskflow.examples.approval", folder, *arguments)

    def draft(self, expense: Expense) -> Any:
        return self.http.post("/expenses", json=expense)

    def answer(
        self, expense: Expense, by: str, approved: Any = True, key: str | None = None
    ) -> Any:
        return self.http.post(
            f"/expenses/{expense['id']}/answers",
            json={"by": by, "approved": approved},
            headers={} if key is None else {"Idempotency-Key": key},
        )

    def show(self, expense: Expense) -> Any:
        return self.http.get(f"/expenses/{expense['id']}").json()

    def asked(self, expense: Expense) -> list[str]:
        """Who is asked now."""
        return [wait["name"].removeprefix("answer of ") for wait in self.show(expense)["waits"]]

    def decision(self, expense: Expense) -> Any:
        """What has been decided, as soon as it is."""
        return eventually(lambda: self.show(expense)["decision"])

    @contextmanager
    def watching(self, expense: Expense, after: int | None = None) -> Generator[Iterator[Sent]]:
        """The events as they are sent."""
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        path = f"/expenses/{expense['id']}/events"
        with self.http.stream("GET", path, headers=headers) as response:
            assert response.headers["Content-Type"].startswith("text/event-stream")
            yield parsed(response.iter_lines())

    def events(self, expense: Expense, after: int | None = None) -> list[Sent]:
        """Every event, until the expense is decided."""
        with self.watching(expense, after) as events:
            return list(events)


def parsed(lines: Iterator[str]) -> Iterator[Sent]:
    """What an EventSource makes of the lines of a response."""
    deadline = time.monotonic() + DEADLINE
    fields: Sent = {}
    for line in lines:
        assert time.monotonic() < deadline
        name, _, value = line.partition(": ")
        if not line and "event" in fields:
            yield {"id": int(fields["id"]), "event": fields["event"], **json.loads(fields["data"])}
        fields = fields | {name: value} if line else {}


def told(events: list[Sent]) -> list[Any]:
    """What was emitted for people."""
    return [each["value"] for each in events if each["event"] == "emitted"]


def numbers(events: list[Sent]) -> list[int]:
    """Of those that can be asked for again."""
    return [each["id"] for each in events if each["event"] in DURABLE]


def read_until(events: Iterator[Sent], condition: Callable[[Sent], bool]) -> list[Sent]:
    """The events up to the first one with that condition."""
    read: list[Sent] = []
    for event in events:
        read.append(event)
        if condition(event):
            return read
    raise AssertionError(f"it never came: {read}")


Open = Callable[..., Office]


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Open]:
    """Starts servers that share one file of expenses, and kills them in the end."""
    with ExitStack() as clients, ExitStack() as servers:

        def start(*arguments: str) -> Office:
            office = Office(tmp_path, *arguments)
            servers.callback(office.kill)
            clients.callback(office.http.close)
            return office

        yield start


@pytest.fixture
def said(tmp_path: Path) -> Callable[[str], list[str]]:
    """The lines with some words in them that all servers have printed."""
    return lambda words: [
        line
        for log in sorted(tmp_path.glob("server-*"))
        for line in log.read_text().splitlines()
        if words in line
    ]


@pytest.fixture
def expense() -> Expense:
    """One that nobody hurries about."""
    return {
        "id": f"E-{uuid4().hex}", "what_for": "a lamp", "cents": 4900,
        "remind_after": NEVER, "escalate_after": NEVER,
    }  # fmt: skip


Said = Callable[[str], list[str]]


def test_ann_is_asked_reminded_and_then_bob_is_asked_too(
    office: Open, expense: Expense, said: Said
) -> None:
    """Whoever of the two answers first decides; everything is told as it happens."""
    here = office()
    here.draft(expense | {"remind_after": SOON, "escalate_after": SOON})
    eventually(lambda: here.asked(expense) == ["Ann", "Bob"])
    assert here.answer(expense, "Bob").status_code == 202
    decision = here.decision(expense)

    assert decision["answer"] == {"by": "Bob", "approved": True, "comment": ""}
    assert len(said("to Ann")) == 2
    assert [decision["payment"] in line for line in said("the bank pays")] == [True]
    assert told(here.events(expense)) == [
        "drafted", "asked Ann", "reminded Ann", "escalated to Bob", "approved by Bob", "paid",
    ]  # fmt: skip


def test_an_open_question_shows_what_is_asked_until_when_and_how_to_answer(
    office: Open, expense: Expense
) -> None:
    """The prompt, the deadline, and the answer's JSON schema."""
    here = office()
    drafted = here.draft(expense)
    [wait] = eventually(lambda: here.show(expense)["waits"])

    assert drafted.status_code == 202
    assert wait["prompt"] == "May we spend 49.00 on a lamp?"
    assert 0 < wait["deadline"] - time.time() <= NEVER
    assert set(wait["schema"]["properties"]) == {"by", "approved", "comment"}


def test_a_declined_expense_is_not_paid(office: Open, expense: Expense, said: Said) -> None:
    here = office()
    here.draft(expense)
    here.answer(expense, "Ann", approved=False)

    assert here.decision(expense)["payment"] is None
    assert said("the bank pays") == []


def test_an_expense_outlives_a_kill_while_it_waits(
    office: Open, expense: Expense, said: Said
) -> None:
    """Started again, it knows whom it has asked; the answer finishes it, and it is paid once."""
    here = office()
    here.draft(expense)
    eventually(lambda: here.asked(expense) == ["Ann"])
    here.kill()

    here = office()
    eventually(lambda: here.asked(expense) == ["Ann"])
    here.answer(expense, "Ann")
    assert here.decision(expense)["answer"]["by"] == "Ann"
    assert len(said("to Ann")) == 1
    assert len(said("the bank pays")) == 1


def test_what_was_due_while_the_service_was_dead_is_done_when_it_starts(
    office: Open, expense: Expense, said: Said
) -> None:
    """Ann is reminded, though nobody asks for the expense."""
    here = office()
    here.draft(expense | {"remind_after": 4})
    [wait] = eventually(lambda: here.show(expense)["waits"])
    here.kill()
    assert not said("Again")
    time.sleep(max(0, wait["deadline"] - time.time()))

    office()
    eventually(lambda: said("Again"))


def test_a_payment_that_was_cut_off_is_made_without_being_asked_for(
    office: Open, expense: Expense, said: Said
) -> None:
    """Killed while the bank pays: the next process goes on by itself."""
    here = office("--bank-delay", "60")
    here.draft(expense)
    with here.watching(expense) as events:
        read_until(events, lambda each: each.get("value") == "asked Ann")
        here.answer(expense, "Ann")
        read_until(events, lambda each: each["event"] == "task_started" and each["name"] == "pay")
    here.kill()

    here = office()
    assert here.decision(expense)["payment"]
    assert len(said("the bank pays")) == 1


def test_a_watcher_goes_on_where_a_killed_server_cut_it_off(office: Open, expense: Expense) -> None:
    """With Last-Event-ID, what is durable comes once each: no gap, no repeat."""
    here = office()
    here.draft(expense | {"remind_after": SOON})
    with here.watching(expense) as events:
        before = read_until(events, lambda each: each.get("value") == "asked Ann")
        here.kill()

    here = office()
    with here.watching(expense, after=before[-1]["id"]) as events:
        reminded = read_until(events, lambda each: each.get("value") == "reminded Ann")
        here.answer(expense, "Ann")
        after = reminded + list(events)

    whole = here.events(expense)
    assert numbers(before + after) == numbers(whole)
    assert told(before + after) == [
        "drafted", "asked Ann", "reminded Ann", "approved by Ann", "paid",
    ]  # fmt: skip
    assert after[-1]["event"] == whole[-1]["event"] == "run_completed"


@pytest.mark.parametrize("seen", [0, 3, 7])
def test_a_watcher_of_a_decided_expense_gets_what_came_after(
    office: Open, expense: Expense, seen: int
) -> None:
    """Wherever it was cut off, and the end of the run."""
    here = office()
    here.draft(expense)
    here.answer(expense, "Ann")
    whole = here.events(expense)
    rest = here.events(expense, after=numbers(whole)[seen])

    assert numbers(rest) == numbers(whole)[seen + 1 :]
    assert rest[-1]["event"] == "run_completed"
    assert rest[-1]["result"] == whole[-1]["result"] == here.decision(expense)


def test_a_double_click_counts_once(office: Open, expense: Expense, tmp_path: Path) -> None:
    """One key is one answer, also when the expense has been decided meanwhile."""
    here = office()
    here.draft(expense)
    assert here.answer(expense, "Ann", key="click").status_code == 202
    assert here.answer(expense, "Ann", key="click").status_code == 202
    here.decision(expense)

    assert here.answer(expense, "Ann", key="click").status_code == 202
    assert here.answer(expense, "Ann", approved=False, key="another").status_code == 409
    with closing(sqlite3.connect(tmp_path / "approval.db")) as db:
        sent = db.execute("SELECT count(*) FROM checkpoint WHERE name = 'answer of Ann'").fetchone()
    assert sent == (1,)


def test_an_answer_that_lost_the_race_changes_nothing(
    office: Open, expense: Expense, said: Said
) -> None:
    """Ann and Bob at the same moment: one decides, the other is told so or is not heard."""
    here = office("--bank-delay", "1")
    here.draft(expense | {"remind_after": SOON, "escalate_after": SOON})
    eventually(lambda: here.asked(expense) == ["Ann", "Bob"])
    here.answer(expense, "Ann")
    late = here.answer(expense, "Bob", approved=False)

    assert late.status_code in (202, 409)
    assert here.decision(expense)["answer"]["by"] == "Ann"
    assert len(said("the bank pays")) == 1


def test_bob_may_answer_before_he_is_asked(office: Open, expense: Expense) -> None:
    """His answer waits for its question."""
    here = office()
    here.draft(expense | {"remind_after": 1, "escalate_after": SOON})
    assert here.answer(expense, "Bob", approved=False).status_code == 202

    assert here.decision(expense)["answer"]["by"] == "Bob"
    assert told(here.events(expense))[-2:] == ["escalated to Bob", "declined by Bob"]


def test_an_answer_may_reach_another_process(office: Open, expense: Expense, said: Said) -> None:
    """Two services on one file: whichever gets it, it is paid once, and both know."""
    one, other = office(), office()
    one.draft(expense)
    eventually(lambda: other.asked(expense) == ["Ann"])
    with one.watching(expense) as events:
        other.answer(expense, "Ann")
        assert told(list(events))[-2:] == ["approved by Ann", "paid"]

    assert one.decision(expense) == other.decision(expense)
    assert len(said("the bank pays")) == 1


def test_what_is_no_answer_is_refused(office: Open, expense: Expense) -> None:
    """Before it is sent: the wait goes on."""
    here = office()
    here.draft(expense)
    path = f"/expenses/{expense['id']}/answers"
    wrong: list[Any] = [
        {"by": "Ann"}, {"by": "Mallory", "approved": True}, {"by": "Ann", "approved": "perhaps"},
        {"by": "Ann", "approved": True, "comment": 7}, [], None, "yes",
    ]  # fmt: skip

    assert {here.http.post(path, json=each).status_code for each in wrong} == {422}
    eventually(lambda: here.asked(expense) == ["Ann"])


def test_what_is_no_expense_is_refused(office: Open, expense: Expense) -> None:
    """Before a run is begun."""
    here = office()
    wrong: list[Expense] = [{"id": each} for each in ("", "a/b", "x" * 65)]
    wrong += [{"cents": 0}, {"what_for": ""}, {"remind_after": 0}, {"escalate_after": "soon"}]

    assert {here.draft(expense | each).status_code for each in wrong} == {422}
    assert here.http.get("/expenses").json() == []


def test_an_unknown_expense_is_not_found(office: Open, expense: Expense) -> None:
    here = office()
    path = f"/expenses/{expense['id']}"
    answers = [here.http.get(path), here.answer(expense, "Ann"), here.http.get(f"{path}/events")]

    assert [each.status_code for each in answers] == [404, 404, 404]


def test_an_expense_that_is_drafted_twice_is_asked_once(
    office: Open, expense: Expense, said: Said
) -> None:
    """Its id with another content is a conflict."""
    here = office()
    assert {here.draft(expense).status_code for _ in range(3)} == {202}
    assert here.draft(expense | {"cents": 1}).status_code == 409

    eventually(lambda: here.asked(expense) == ["Ann"])
    assert here.draft(expense | {"cents": 1}).status_code == 409
    assert [each["expense"]["cents"] for each in here.http.get("/expenses").json()] == [4900]
    assert len(said("to Ann")) == 1


def test_a_payment_that_executes_ends_when_the_service_is_told_to_stop(
    office: Open, expense: Expense, said: Said
) -> None:
    """SIGTERM: it is recorded, nothing else begins, and the next process does not pay again."""
    here = office("--bank-delay", "2")
    here.draft(expense)
    with here.watching(expense) as events:
        read_until(events, lambda each: each.get("value") == "asked Ann")
        here.answer(expense, "Ann")
        read_until(events, lambda each: each["event"] == "task_started" and each["name"] == "pay")
        here.terminate()
        assert "paid" not in told(list(events))
    assert len(said("the bank pays")) == 1

    here = office()
    assert here.decision(expense)["payment"]
    assert told(here.events(expense))[-1] == "paid"
    assert len(said("the bank pays")) == 1


def test_a_service_that_is_told_to_stop_twice_does_not_wait(
    office: Open, expense: Expense, said: Said
) -> None:
    """Ctrl-C, and Ctrl-C again: the payment is cut off, and the next process makes it."""
    here = office("--bank-delay", "600")
    here.draft(expense)
    with here.watching(expense) as events:
        read_until(events, lambda each: each.get("value") == "asked Ann")
        here.answer(expense, "Ann")
        read_until(events, lambda each: each["event"] == "task_started" and each["name"] == "pay")
    here.process.send_signal(signal.SIGINT)
    eventually(lambda: "Waiting for application shutdown" in here.log.read_text())
    here.process.send_signal(signal.SIGINT)
    here.process.wait(DEADLINE / 2)

    here = office()
    assert here.decision(expense)["payment"]
    assert len(said("the bank pays")) == 1


def test_who_only_watches_does_not_keep_a_service_from_stopping(
    office: Open, expense: Expense
) -> None:
    """Its stream ends, and goes on at the next service."""
    here = office()
    here.draft(expense)
    with here.watching(expense) as events:
        read_until(events, lambda each: each.get("value") == "asked Ann")
        begun = time.monotonic()
        here.terminate()
        rest = list(events)

    assert time.monotonic() - begun < DEADLINE / 2
    assert "run_completed" not in [each["event"] for each in rest]
    assert "Traceback" not in here.log.read_text()


def test_the_page_needs_nothing_but_the_service(office: Open) -> None:
    """No script, style or picture from anywhere else."""
    page = office().http.get("/")

    assert page.headers["Content-Type"].startswith("text/html")
    assert "EventSource" in page.text
    assert "//" not in page.text.replace("  //", "").replace("; //", "")

"""The recorded form of a failure: what a rerun meets is what the first run met."""

from __future__ import annotations

import asyncio
import builtins
import copy
import json
import pickle
import re
import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from http import HTTPStatus
from pathlib import Path
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import httpx
import pytest

from taskflow import TaskFailed, TaskTimeout
from taskflow.retry import is_transient, retry_after
from taskflow.wire.differences import difference
from taskflow.wire.failures import (
    Failure,
    Mark,
    copied,
    describe,
    marks_in,
    rebuild,
    record,
    set_mark,
)


def again(error: BaseException) -> Exception:
    """``error`` as a rerun meets it."""
    return rebuild(Failure.parse(record(error).encode()))


def http_error() -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://shop.test/order")
    try:
        httpx.Response(503, request=request).raise_for_status()
    except httpx.HTTPStatusError as error:
        return error
    raise AssertionError


def json_error() -> json.JSONDecodeError:
    try:
        json.loads('{"a":')
    except json.JSONDecodeError as error:
        return error
    raise AssertionError


class OrderFailed(Exception):
    """Of a user: its __init__ wants other arguments than it passes on."""

    def __init__(self, order: str, *, code: int) -> None:
        super().__init__(f"order {order} failed")
        self.order = order
        self.code = code


class Silent(Exception):
    """Its message is made of its attributes."""

    def __init__(self, order: str) -> None:
        self.order = order

    def __str__(self) -> str:
        return f"order {self.order} failed"


class Slotted(Exception):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__("slotted")
        self.code = code


@attrs.define(auto_exc=True)
class Declined(Exception):
    code: int


@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        ValueError("x", 1, None),
        RuntimeError({"nested": [1, 2.5, "x"]}),
        KeyError("k"),
        KeyError(("two", "parts")),
        RuntimeError((1, (2, b"three")), {4}, {5: "six"}),
        StopIteration(3),
        FileNotFoundError(2, "No such file", "orders.csv"),
        FileNotFoundError(2, "No such file", "from.csv", None, "to.csv"),
        PermissionError(13, "Permission denied"),
        OSError("just text"),
        ConnectionRefusedError(111, "refused"),
        TimeoutError("slow"),
        UnicodeDecodeError("utf-8", b"\xff\xfe", 0, 1, "invalid start byte"),
        UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range"),
        SyntaxError("bad", ("orders.py", 3, 4, "text")),
        json_error(),
        http_error(),
        httpx.ConnectError("refused"),
        OrderFailed("A1", code=3),
        Silent("A1"),
        Slotted(3),
        Declined(3),
        TaskTimeout("fetch", 1.0, 1.5),
        subprocess.CalledProcessError(1, ["ls"], "out", "err"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_comes_back_as_it_was(error: Exception) -> None:
    """Class, arguments and message."""
    rebuilt = again(error)

    assert type(rebuilt) is type(error)
    assert rebuilt.args == error.args
    assert str(rebuilt) == str(error)


@pytest.mark.parametrize(
    ("error", "names"),
    [
        (FileNotFoundError(2, "x", "a.csv", None, "b.csv"), ["errno", "filename", "filename2"]),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), ["object", "start", "end", "reason"]),
        (ModuleNotFoundError("no", name="orders"), ["name"]),
        (AttributeError("no", name="total", obj="text"), ["name", "obj"]),
        (SyntaxError("bad", ("orders.py", 3, 4, "text")), ["filename", "lineno", "text", "msg"]),
        (json_error(), ["doc", "pos", "lineno", "colno"]),
        (OrderFailed("A1", code=3), ["order", "code"]),
        (Slotted(3), ["code"]),
        (Declined(3), ["code"]),
        (TaskTimeout("fetch", 1.0, 1.5), ["task_name", "limit", "elapsed"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_attributes_that_json_carries_come_back(error: Exception, names: list[str]) -> None:
    """Wherever they live: in __dict__, in slots, in C."""
    rebuilt = again(error)

    for name in names:
        assert getattr(rebuilt, name) == getattr(error, name)


def test_notes_come_back() -> None:
    """They are attributes too."""
    error = ValueError("x")
    error.add_note("while the order was read")

    assert again(error).__notes__ == ["while the order was read"]


def test_attributes_that_json_does_not_carry_are_left_out() -> None:
    """If they have no other form; the others stay."""
    error = OrderFailed("A1", code=3)
    error.client = object()
    error.pair = (1, 2)

    rebuilt = again(error)

    assert (rebuilt.order, rebuilt.pair) == ("A1", (1, 2))
    assert not hasattr(rebuilt, "client")


def test_no_init_of_the_user_runs() -> None:
    """It would garble messages, fail, or do something a second time."""
    made: list[str] = []

    class Counted(Exception):
        def __init__(self, order: str) -> None:
            made.append(order)
            super().__init__(f"order {order}")

    assert str(again(Counted("A1"))) == "order A1"
    assert made == ["A1"]


def test_groups_are_rebuilt_member_by_member() -> None:
    """To any depth, each member by its own rules."""

    class Opaque(Exception):
        def __str__(self) -> str:
            return f"{id(self)}"

    error = ExceptionGroup(
        "orders", [KeyError("k"), ExceptionGroup("inner", [OrderFailed("A1", code=3), Opaque()])]
    )

    rebuilt = again(error)

    assert isinstance(rebuilt, ExceptionGroup)
    assert rebuilt.message == "orders"
    key, inner = rebuilt.exceptions
    assert isinstance(key, KeyError)
    order, opaque = inner.exceptions
    assert (type(order), str(order)) == (OrderFailed, "order A1 failed")
    assert (isinstance(opaque, Opaque), str(opaque)) == (
        True,
        str(error.exceptions[1].exceptions[1]),
    )


def test_a_class_that_lives_in_a_function_is_found() -> None:
    """By its qualified name, as long as it lives."""

    class Local(ValueError):
        pass

    assert type(again(Local("x"))) is Local


def test_no_new_of_the_user_runs() -> None:
    """It may want other arguments, too."""

    class Picky(Exception):
        def __new__(cls, order: str, code: int) -> Picky:
            return super().__new__(cls, order)

        def __init__(self, order: str, code: int) -> None:
            super().__init__(f"order {order}")

    rebuilt = again(Picky("A1", 3))

    assert (type(rebuilt), str(rebuilt)) == (Picky, "order A1")


def test_what_cannot_be_rebuilt_is_task_failed() -> None:
    """It says what it stands for."""
    failure = record(OrderFailed("A1", code=3))
    failure.type = "orders.removed:OrderFailed"

    rebuilt = rebuild(failure)

    assert isinstance(rebuilt, TaskFailed)
    assert rebuilt.exception_type == "orders.removed:OrderFailed"
    assert rebuilt.message == "order A1 failed"


@pytest.mark.parametrize(
    "name",
    ["antigravity:Error", "builtins:print", "builtins:int", "os:nothing.at.all", "", ":", "x"],
)
def test_a_name_that_is_no_exception_is_task_failed(name: str) -> None:
    """Nothing named in a database is called or imported."""
    rebuilt = rebuild(Failure(type=name, message="text", args=["text"]))

    assert isinstance(rebuilt, TaskFailed)
    assert "antigravity" not in sys.modules


def test_no_module_is_asked_to_import_for_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module's own __getattr__ may import what is asked of it: it is not asked."""
    asked: list[str] = []
    monkeypatch.setattr(builtins, "__getattr__", asked.append, raising=False)
    monkeypatch.setattr(json, "__getattr__", asked.append, raising=False)

    rebuild(Failure(type="json:Lazy.Error", message="text"))

    assert asked == []


def test_arguments_that_cannot_be_recorded_leave_the_message() -> None:
    """The message stands for them."""
    marker = object()

    rebuilt = again(ValueError(marker))

    assert (type(rebuilt), rebuilt.args) == (ValueError, (repr(marker),))


def test_a_long_message_is_cut_the_same_way_each_time() -> None:
    """The record is bounded, and so is what stands in it."""
    error = ValueError(object(), "x" * 1_000_000)

    assert len(record(error).encode()) < 50_000
    assert str(again(error)) == str(again(error))


def test_text_that_utf8_cannot_encode_is_no_reason_to_lose_a_failure() -> None:
    """A lone surrogate in a message comes back."""
    assert str(again(ValueError("bad \ud800"))) == "bad \ud800"


def test_a_failure_says_itself_in_one_line() -> None:
    """Type and message."""
    assert describe(record(OrderFailed("A1", code=3)).encode()) == "OrderFailed: order A1 failed"


@pytest.mark.parametrize("payload", [b"[]", b"1", b"null", b"{", b'"text"'])
def test_what_is_no_failure_is_a_value_error(payload: bytes) -> None:
    """So that whoever reads a damaged row can say so."""
    with pytest.raises(ValueError):
        Failure.parse(payload)


def marked(run: object, task_id: str) -> ValueError:
    error = ValueError(task_id)
    set_mark(error, Mark(run, task_id, (), False))
    return error


def ids(error: BaseException, run: object) -> set[str]:
    return {mark.task_id for mark in marks_in(error, run)}


def test_a_failure_is_passed_on_by_itself_its_group_or_its_cause() -> None:
    """``raise OrderFailed from error`` passes the failure on, also through groups."""
    run = object()
    cause = RuntimeError("outer")
    cause.__cause__ = marked(run, "b")

    assert ids(marked(run, "a"), run) == {"a"}
    assert ids(ExceptionGroup("g", [marked(run, "a"), cause]), run) == {"a", "b"}


def test_a_failure_that_was_handled_is_not_passed_on() -> None:
    """A plain ``raise`` inside ``except`` has dealt with it: its __context__ does not count."""
    run = object()
    error = RuntimeError("outer")
    error.__context__ = marked(run, "a")

    assert ids(error, run) == set()


def test_a_failure_of_another_run_is_none_of_this_one() -> None:
    """Its mark says whose it is."""
    assert ids(marked(object(), "a"), object()) == set()


def test_causes_in_a_circle_end() -> None:
    """Whoever builds them."""
    run = object()
    one, two = RuntimeError("1"), RuntimeError("2")
    one.__cause__, two.__cause__ = two, one

    assert ids(one, run) == set()


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def test_causes_come_back() -> None:
    """The whole chain, each by its own rules."""
    rebuilt = again(caused(KeyError("k"), caused(OrderFailed("A1", code=3), json_error())))

    cause = rebuilt.__cause__
    assert isinstance(cause, OrderFailed)
    assert (str(cause), cause.code) == ("order A1 failed", 3)
    assert isinstance(cause.__cause__, json.JSONDecodeError)
    assert cause.__cause__.__cause__ is None


def test_causes_of_members_come_back_and_may_be_cancellations() -> None:
    """``asyncio.timeout`` raises its TimeoutError from a CancelledError."""
    error = caused(TimeoutError(), asyncio.CancelledError())

    (member,) = again(ExceptionGroup("one", [error])).exceptions

    assert isinstance(member, TimeoutError)
    assert isinstance(member.__cause__, asyncio.CancelledError)


def test_what_cannot_be_rebuilt_has_its_cause() -> None:
    """The stand-in says what led to it."""
    failure = record(caused(ValueError("x"), KeyError("k")))
    failure.type = "nowhere:Unknown"

    rebuilt = rebuild(Failure.parse(failure.encode()))

    assert isinstance(rebuilt, TaskFailed)
    assert isinstance(rebuilt.__cause__, KeyError)


def test_a_cause_that_is_its_own_cause_ends() -> None:
    """In a circle, in a long chain, and in many members at once."""
    one, two = ValueError("one"), KeyError("two")
    caused(caused(one, two).__cause__, one)
    assert again(one).__cause__.__cause__ is None

    chain: BaseException = ValueError("leaf")
    for _ in range(10_000):
        chain = caused(ValueError("link"), chain)
    assert len(record(chain).encode()) < 10_000

    group = ExceptionGroup("many", [caused(ValueError(str(n)), chain) for n in range(1_000)])
    assert len(again(group).exceptions) == 1_000


def test_what_a_first_run_knows_of_a_cause_is_kept() -> None:
    """Its traceback."""
    try:
        try:
            raise KeyError("k")
        except KeyError as error:
            raise ValueError("x") from error
    except ValueError as error:
        rebuilt = rebuild(record(error), error)

    assert rebuilt.__cause__.__traceback__ is not None


def test_attributes_that_hold_exceptions_come_back() -> None:
    """Alone or in containers; one that holds itself does not."""
    error = OrderFailed("A1", code=3)
    error.reason = TimeoutError("slow")
    error.all = {"tries": (KeyError("k"), None)}
    error.itself = [error]

    rebuilt = again(error)

    assert isinstance(rebuilt.reason, TimeoutError)
    assert isinstance(rebuilt.all["tries"][0], KeyError)
    assert not hasattr(rebuilt, "itself")


@pytest.mark.parametrize(
    "value",
    [
        b"\xff",
        (1, (2, [3])),
        {1, 2},
        frozenset({"a"}),
        {1: "one", (2, 3): b"two"},
        {"$": "tuple", "v": [1]},
        float("inf"),
        1 << 200,
        1 + 2j,
        Decimal("1.50"),
        UUID(int=7),
        date(2026, 1, 1),
        time(1, 2, 3, 4),
        datetime(2026, 1, 1, tzinfo=UTC),
        timedelta(days=-1, microseconds=3),
        Path("orders.csv"),
        HTTPStatus.NOT_FOUND,
        "lone \ud800",
        [{"deep": {"in": (HTTPStatus.OK, {b"x"})}}],
    ],
    ids=repr,
)
def test_values_that_json_does_not_carry_come_back(value: object) -> None:
    """As attributes and as arguments, of the same type."""
    error = OrderFailed("A1", code=3)
    error.value = value

    assert difference(again(error).value, value) is None
    assert difference(again(ValueError(value, 1)).args, (value, 1)) is None


@pytest.mark.parametrize(
    "value",
    [
        object(),
        datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")),
        datetime(2026, 1, 1, fold=1),
        type("Text", (str,), {})("x"),
        re.IGNORECASE | re.MULTILINE,
        b"x" * 2_000_000,
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_that_would_change_are_left_out(value: object) -> None:
    """Rather no attribute than another one."""
    error = OrderFailed("A1", code=3)
    error.value = value

    assert not hasattr(again(error), "value")
    assert again(error).code == 3


def test_a_message_that_the_class_cannot_make_is_the_recorded_one() -> None:
    """The class is one of the same name that derives from it, and can be copied and pickled."""
    error = Silent("A1")
    error.order = object()

    rebuilt = again(error)

    assert isinstance(rebuilt, Silent)
    assert type(rebuilt).__name__ == "Silent"
    for each in (rebuilt, again(rebuilt), copy.copy(rebuilt), pickle.loads(pickle.dumps(rebuilt))):
        assert (str(each), isinstance(each, Silent)) == (str(error), True)


def test_records_of_older_versions_are_read() -> None:
    """They have no cause and no state; what a newer version adds is left out."""
    old = b'{"type":"builtins:KeyError","message":"\'k\'","args":["k"],"attributes":{"order":"A1"}}'

    error = rebuild(Failure.parse(old))

    assert (type(error), error.args, error.order) == (KeyError, ("k",), "A1")
    lost = b'{"type":"test_failures:Silent","message":"order A1 failed","args":["A1"]}'
    assert isinstance(rebuild(Failure.parse(lost)), TaskFailed)
    newer = old[:-1] + b',"added":[1]}'
    assert type(rebuild(Failure.parse(newer))) is KeyError


def test_what_a_server_answered_is_known_after_a_rerun() -> None:
    """So that the policy of a call around it decides as on the first run."""
    request = httpx.Request("GET", "http://shop.test")
    response = httpx.Response(404, request=request)
    missing = httpx.HTTPStatusError("no", request=request, response=response)
    busy = httpx.HTTPStatusError(
        "no", request=request, response=httpx.Response(503, headers={"retry-after": "7"})
    )

    assert not is_transient(again(again(missing)))
    assert retry_after(again(busy), 0.0) == 7.0


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file", "from.csv", None, "to.csv"),
        UnicodeDecodeError("utf-8", b"\xff\xfe", 0, 1, "invalid start byte"),
        Slotted(3),
        Declined(3),
        TaskTimeout("fetch", 1.0, 1.5),
        ExceptionGroup("both", [ValueError("x"), KeyError("k")]),
        caused(ValueError("x"), KeyError("k")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_second_caller_gets_a_copy(error: Exception) -> None:
    """With everything that the first one has, wherever it lives."""
    duplicate = copied(error)

    assert duplicate is not error
    assert (type(duplicate), str(duplicate)) == (type(error), str(error))
    assert duplicate.__dict__ == error.__dict__
    assert duplicate.__cause__ is error.__cause__
    for name in ("filename", "filename2", "object", "code", "exceptions"):
        assert getattr(duplicate, name, None) == getattr(error, name, None)

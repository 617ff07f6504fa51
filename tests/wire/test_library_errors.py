"""The exceptions of everyday libraries: first run and rerun meet the same ``except`` clause."""

from __future__ import annotations

import argparse
import asyncio
import binascii
import configparser
import csv
import ftplib
import graphlib
import http.client
import io
import ipaddress
import json
import pickle
import queue
import re
import shutil
import smtplib
import socket
import sqlite3
import ssl
import statistics
import struct
import subprocess
import tarfile
import tomllib
import urllib.error
import xml.etree.ElementTree
import zipfile
import zlib
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from http import HTTPStatus
from typing import Annotated, Any, NamedTuple
from zoneinfo import ZoneInfo

import anyio
import attrs
import click
import fastapi
import fastapi.exceptions
import httpx
import msgspec
import pydantic
import pydantic_core
import pytest
import starlette.exceptions
import trio
import typer
from reruns import Crash, CrashOnce

from taskflow import MemoryStore, Runtime, task, workflow
from taskflow.wire.failures import Failure, rebuild, record

pytestmark = pytest.mark.anyio


def raised(action: Callable[[], object]) -> Exception:
    """What the action raises."""
    try:
        action()
    except Exception as error:
        return error
    raise LookupError(f"{action} raised nothing")


# pydantic.


class Order(pydantic.BaseModel):
    number: int
    note: str = ""

    @pydantic.field_validator("number")
    @classmethod
    def check(cls, number: int) -> int:
        assert number < 100, "too large"
        if number < 0:
            raise ValueError(f"negative: {{{number}}}")
        if number == 7:
            raise pydantic_core.PydanticCustomError("lucky", "{n} is lucky", {"n": number})
        return number


def invalid(value: object, annotation: Any = Order) -> Exception:
    """The ValidationError of a value."""
    return raised(lambda: pydantic.TypeAdapter(annotation).validate_python(value))


VALIDATION_ERRORS = [
    invalid({"number": "x", "note": 3}),
    invalid({"number": -1}),
    invalid({"number": 200}),
    invalid({"number": 7}),
    invalid({}),
    invalid(5),
    invalid({"number": 3, "note": b"\xff"}),
    invalid({"number": object()}),
    invalid({"number": datetime(2026, 1, 1)}),
    invalid([Order(number=1)]),
    invalid({"number": "x" * 5_000}),
    invalid("x", Decimal),
    invalid("x", datetime),
    invalid(1, Annotated[int, pydantic.Field(gt=3)]),
    invalid(Decimal(1), Annotated[Decimal, pydantic.Field(gt=Decimal("3.0"))]),
    invalid("x", HTTPStatus),
    raised(lambda: pydantic.TypeAdapter(list[int]).validate_json('[1, "x"')),
]

# aiohttp, requests, openai and tenacity, which are not installed here: the same constructors.


class ConnectionKey:
    """What ClientConnectorError makes its message of; nothing records it."""

    host, port, ssl = "shop.test", 443, True


class ClientConnectorError(OSError):
    def __init__(self, key: ConnectionKey, os_error: OSError) -> None:
        self._conn_key = key
        self._os_error = os_error
        super().__init__(os_error.errno, os_error.strerror)
        self.args = key, os_error

    def __str__(self) -> str:
        key = self._conn_key
        return f"Cannot connect to host {key.host}:{key.port} ssl:{key.ssl} [{self.strerror}]"


class RequestInfo(NamedTuple):
    url: httpx.URL
    method: str


class ClientResponseError(Exception):
    def __init__(
        self, info: RequestInfo, history: tuple[object, ...], *, status: int, message: str
    ) -> None:
        self.request_info = info
        self.history = history
        self.status = status
        self.message = message
        self.args = (info, history)

    def __str__(self) -> str:
        return f"{self.status}, message={self.message!r}, url={str(self.request_info.url)!r}"

    def __repr__(self) -> str:
        return f"ClientResponseError({self.request_info!r}, {self.history!r})"


class ServerDisconnectedError(ConnectionResetError):
    def __init__(self, message: str | None = None) -> None:
        self.message = "Server disconnected" if message is None else message
        self.args = (self.message,)


class RequestsHTTPError(OSError):
    def __init__(self, *args: object, **kwargs: object) -> None:
        self.response = kwargs.pop("response", None)
        self.request = kwargs.pop("request", None)
        super().__init__(*args, **kwargs)


class RateLimitError(Exception):
    def __init__(self, message: str, *, response: httpx.Response, body: object | None) -> None:
        super().__init__(message)
        self.message = message
        self.response = response
        self.status_code = response.status_code
        self.body = body


class RetryError(Exception):
    def __init__(self, last_attempt: asyncio.Future[None]) -> None:
        self.last_attempt = last_attempt
        super().__init__(last_attempt)

    def __str__(self) -> str:
        return f"RetryError[{self.last_attempt}]"


class Registered(Exception):
    """Enters its subclasses somewhere, and shows what nothing records."""

    known: list[type] = []

    def __init_subclass__(cls, **options: object) -> None:
        cls.known.append(cls)

    def __init__(self, place: object) -> None:
        self.place = place

    def __str__(self) -> str:
        return f"at {self.place}"


@attrs.frozen
class Point:
    x: int


def answered(status: int) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", "http://shop.test/order"))


def field() -> Any:
    return attrs.fields(Point).x


def unique_twice() -> None:
    database = sqlite3.connect(":memory:")
    try:
        database.executescript("create table a (b unique); insert into a values (1), (1)")
    finally:
        database.close()


LIBRARY_ERRORS = [
    # The standard library.
    http.client.IncompleteRead(b"part", 5),
    http.client.BadStatusLine("x"),
    http.client.RemoteDisconnected("closed"),
    http.client.LineTooLong("header"),
    urllib.error.URLError(OSError(111, "refused")),
    urllib.error.HTTPError("http://shop.test", 404, "no", None, io.BytesIO()),  # type: ignore[arg-type]
    urllib.error.ContentTooShortError("short", b"data"),  # type: ignore[arg-type]
    socket.gaierror(-2, "Name or service not known"),
    ssl.SSLError(1, "handshake failure"),
    ssl.SSLCertVerificationError(1, "certificate verify failed"),
    subprocess.CalledProcessError(1, ["ls"], b"out", b"err"),
    subprocess.TimeoutExpired(["ls"], 3, b"out"),
    asyncio.IncompleteReadError(b"part", 5),
    asyncio.LimitOverrunError("too long", 5),
    asyncio.InvalidStateError("done"),
    raised(lambda: json.loads("{")),
    raised(unique_twice),
    raised(lambda: zlib.decompress(b"x")),
    raised(lambda: Decimal("x")),
    raised(lambda: Decimal(1) / 0),
    raised(lambda: ZoneInfo("No/Where")),
    raised(lambda: tomllib.loads("x")),
    raised(lambda: xml.etree.ElementTree.fromstring("<a")),
    raised(lambda: struct.unpack("i", b"")),
    raised(lambda: binascii.unhexlify("z")),
    raised(lambda: tarfile.open(fileobj=io.BytesIO(b"x"))),  # noqa: SIM115
    raised(lambda: zipfile.ZipFile(io.BytesIO(b"x"))),
    raised(lambda: ipaddress.ip_address("x")),
    raised(lambda: re.compile("(")),
    raised(lambda: configparser.ConfigParser().get("a", "b")),
    raised(lambda: configparser.ConfigParser().read_string("x")),
    raised(lambda: compile("a b", "orders.py", "exec")),
    raised(lambda: b"\xff".decode()),
    raised(lambda: "\u00e9".encode("ascii")),
    raised(lambda: open("/no/such/file")),  # noqa: SIM115
    shutil.Error([("a", "b", "no")]),
    smtplib.SMTPResponseException(550, b"no"),
    smtplib.SMTPRecipientsRefused({"ann@shop.test": (550, b"no")}),
    smtplib.SMTPSenderRefused(550, b"no", "ann@shop.test"),
    ftplib.error_perm("550 no"),
    graphlib.CycleError("a cycle", ["a", "b", "a"]),
    argparse.ArgumentError(None, "no"),
    csv.Error("no"),
    pickle.PicklingError("no"),
    queue.Empty(),
    statistics.StatisticsError("no"),
    BlockingIOError(11, "busy", 5),
    RuntimeError(HTTPStatus.NOT_FOUND, date(2026, 1, 1), 1 << 80, float("inf"), KeyError(b"k")),
    ExceptionGroup("both", [ValueError(b"x"), KeyError(datetime(2026, 1, 1))]),
    # Libraries that are installed.
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("slow", request=httpx.Request("GET", "http://shop.test")),
    raised(answered(404).raise_for_status),
    httpx.InvalidURL("x"),
    httpx.StreamConsumed(),
    pydantic.errors.PydanticUserError("no", code="model-field-overridden"),
    pydantic_core.PydanticCustomError("lucky", "{n} is lucky", {"n": 7}),
    pydantic_core.PydanticKnownError("greater_than", {"gt": 3}),
    raised(lambda: pydantic_core.to_json(object())),
    raised(lambda: msgspec.json.decode(b'"x"', type=int)),
    raised(lambda: msgspec.json.decode(b"{")),
    raised(lambda: setattr(Point(1), "x", 2)),
    raised(lambda: attrs.validators.instance_of(int)(None, field(), "x")),
    raised(lambda: attrs.fields(int)),  # type: ignore[type-var]
    click.UsageError("no"),
    click.BadParameter("no", param_hint="--order"),
    click.NoSuchOption("--ordr", possibilities=["--order"]),
    click.FileError("orders.csv", "no"),
    click.exceptions.Exit(3),
    click.Abort(),
    typer.BadParameter("no"),
    starlette.exceptions.HTTPException(404, "no", {"retry-after": "3"}),
    fastapi.HTTPException(HTTPStatus.CONFLICT, detail={"order": 1}),
    fastapi.exceptions.RequestValidationError([{"loc": ("a",), "msg": "m", "type": "t"}], body=1),
    trio.TooSlowError("slow"),
    trio.ClosedResourceError("closed"),
    anyio.ClosedResourceError(),
    anyio.DelimiterNotFound(5),
    anyio.BrokenWorkerProcess("died"),
    # The shapes of others.
    ClientConnectorError(ConnectionKey(), OSError(111, "refused")),
    ClientResponseError(
        RequestInfo(httpx.URL("http://shop.test"), "GET"), (), status=404, message="Not Found"
    ),
    ServerDisconnectedError(),
    RequestsHTTPError("404 Client Error", response=answered(404)),
    RateLimitError("too many", response=answered(429), body={"code": 1}),
    RetryError(object()),  # type: ignore[arg-type]
    Registered(object()),
]
ERRORS = VALIDATION_ERRORS + LIBRARY_ERRORS


def again(error: BaseException) -> Any:
    """``error`` as a rerun meets it."""
    return rebuild(Failure.parse(record(error).encode()))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__qualname__)
def test_the_class_and_the_message_come_back(error: Exception) -> None:
    """Also when it is recorded a second time, by a call around the first one."""
    for rebuilt in (again(error), again(again(error))):
        assert isinstance(rebuilt, type(error))
        assert type(rebuilt).__qualname__ == type(error).__qualname__
        assert str(rebuilt) == str(error)
        assert "unprintable" not in repr(rebuilt)


@pytest.mark.parametrize("error", VALIDATION_ERRORS, ids=str)
def test_the_lines_of_a_validation_error_come_back(error: pydantic.ValidationError) -> None:
    """Types, places, messages, contexts; inputs that JSON does not carry are told by their text."""
    rebuilt = again(error)

    assert (rebuilt.title, rebuilt.args) == (error.title, error.args)
    for line, other in zip(rebuilt.errors(), error.errors(), strict=True):
        assert repr(line["input"])[:1_000] == repr(other["input"])[:1_000]
        assert str(line.get("ctx")) == str(other.get("ctx")).replace("Decimal('3.0')", "'3.0'")
        same = ("type", "loc", "msg", "url")
        assert [line.get(name) for name in same] == [other.get(name) for name in same]


@pytest.mark.parametrize(
    ("error", "names"),
    [
        (http.client.IncompleteRead(b"part", 5), ["partial", "expected"]),
        (subprocess.CalledProcessError(1, ["ls"], b"out"), ["returncode", "cmd", "output"]),
        (smtplib.SMTPResponseException(550, b"no"), ["smtp_code", "smtp_error", "errno"]),
        (LIBRARY_ERRORS[-7], ["errno", "strerror", "filename"]),
        (LIBRARY_ERRORS[-6], ["status", "message", "history"]),
        (LIBRARY_ERRORS[-3], ["status_code", "message", "body"]),
        (fastapi.HTTPException(HTTPStatus.CONFLICT), ["status_code", "detail"]),
    ],
    ids=lambda value: type(value).__qualname__,
)
def test_attributes_come_back(error: Exception, names: list[str]) -> None:
    """Bytes, tuples and members of enumerations, too."""
    rebuilt = again(error)

    for name in names:
        assert getattr(rebuilt, name) == getattr(error, name)
        assert type(getattr(rebuilt, name)) is type(getattr(error, name))


def test_no_code_of_a_class_hears_of_it() -> None:
    """A class that enters its subclasses somewhere does not enter the one that has the message."""
    assert str(again(LIBRARY_ERRORS[-1])).startswith("at ")
    assert Registered.known == []


async def test_first_run_and_rerun_meet_the_same_errors() -> None:
    """Class, message and arguments; no task is executed twice."""
    crash, executed = CrashOnce(), 0
    met: list[list[Exception]] = []

    @task
    async def fail(number: int) -> None:
        nonlocal executed
        executed += 1
        raise ERRORS[number]

    @workflow
    async def shop() -> None:
        met.append([])
        for number, error in enumerate(ERRORS):
            try:
                await fail(number)
            except type(error) as caught:
                met[-1].append(caught)
        crash()

    async with Runtime(MemoryStore()) as runtime:
        with pytest.raises(Crash):
            await runtime.run(shop(), thread_id="t")
        await runtime.run(shop(), thread_id="t")

    assert executed == len(ERRORS)
    for one, other in zip(*met, strict=True):
        assert (type(one), str(one)) == (type(other), str(other))
        assert repr(one.args) == repr(other.args)

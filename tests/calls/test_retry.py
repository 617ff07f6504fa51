"""`RetryPolicy`: what is tried again, how often, and after how long."""

from __future__ import annotations

import asyncio
import email.message
import email.utils
import http.client
import io
import ssl
import urllib.error
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

import httpx
import pytest
import starlette.exceptions
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import MakeStore, in_memory

from taskflow import RetryPolicy, Runtime, task, workflow
from taskflow.retry import first_match, is_transient, retry_after, seconds
from taskflow.testing import VirtualClock

pytestmark = pytest.mark.anyio

NOW = 1_767_225_600.0  # Thu, 01 Jan 2026 00:00:00 GMT


def answer(status: int, **headers: str) -> httpx.HTTPStatusError:
    """As httpx raises it."""
    request = httpx.Request("GET", "http://shop.test/order")
    response = httpx.Response(status, headers={k.replace("_", "-"): v for k, v in headers.items()})
    return httpx.HTTPStatusError("no", request=request, response=response)


class Response:
    """Of requests: false where its status tells of an error."""

    def __init__(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.status_code = status
        self.headers = headers or {}

    def __bool__(self) -> bool:
        return self.status_code < 400


class RequestsHTTPError(OSError):
    """The shape of requests.HTTPError: ``response`` may be None."""

    def __init__(self, *args: object, response: Response | None = None) -> None:
        self.response = response
        super().__init__(*args)


class APIStatusError(Exception):
    """The shape of openai.APIStatusError and anthropic.APIStatusError."""

    def __init__(self, message: str, *, response: httpx.Response) -> None:
        super().__init__(message)
        self.response = response
        self.status_code = response.status_code


class ClientResponseError(Exception):
    """The shape of aiohttp.ClientResponseError."""

    def __init__(self, status: int, headers: dict[str, str] | None = None) -> None:
        super().__init__()
        self.status = status
        self.headers = headers


class RequestError(Exception):
    """Its properties raise, as ``request`` of httpx.RequestError does."""

    @property
    def response(self) -> object:
        raise RuntimeError("it has not been set")

    status_code = response


class GatewayTimeout(TimeoutError, ValueError):
    """A timeout, whatever else it is."""


class Cancelled(BaseException):
    """No Exception, with a status that an Exception would be retried for."""

    status_code = 503


def url_error(status: int, **headers: str) -> urllib.error.HTTPError:
    """As urllib raises it."""
    message = email.message.Message()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return urllib.error.HTTPError("http://shop.test", status, "no", message, io.BytesIO())


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError(),
        ConnectionResetError(),
        TimeoutError(),
        GatewayTimeout(),
        OSError(5, "input/output error"),
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        http.client.RemoteDisconnected("closed"),
        http.client.IncompleteRead(b"par", 5),
        RequestsHTTPError("no response"),
        RequestError(),
        RuntimeError("of an unknown kind"),
        ExceptionGroup("both", [ConnectionError(), answer(429)]),
    ],
)
def test_what_a_second_attempt_may_mend_is_retried_by_default(error: Exception) -> None:
    """Connection errors, timeouts, and what nobody knows."""
    assert is_transient(error)
    assert RetryPolicy().matches(error)


@pytest.mark.parametrize(
    "error",
    [
        TypeError(),
        ValueError(),
        KeyError("k"),
        IndexError(),
        AttributeError(),
        NotImplementedError(),
        ZeroDivisionError(),
        AssertionError(),
        FileNotFoundError(),
        PermissionError(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        ssl.SSLCertVerificationError(1, "certificate verify failed"),
        ExceptionGroup("one of them", [ConnectionError(), ValueError()]),
        ExceptionGroup("one of them", [answer(503), answer(404)]),
        Cancelled(),
        asyncio.CancelledError(),
    ],
)
def test_what_fails_the_same_way_again_is_not(error: BaseException) -> None:
    """Wrong types, values, names, keys, paths and permissions, and what is no Exception."""
    assert not is_transient(error)


@pytest.mark.parametrize(
    "status", [200, 302, 400, 401, 404, 408, 409, 422, 425, 429, 500, 503, 599]
)
@pytest.mark.parametrize(
    "make",
    [
        answer,
        lambda status: RequestsHTTPError("no", response=Response(status)),
        lambda status: APIStatusError("no", response=httpx.Response(status)),
        lambda status: starlette.exceptions.HTTPException(
            HTTPStatus(status) if status < 599 else 599
        ),
        ClientResponseError,
        url_error,
    ],
    ids=["httpx", "requests", "openai", "starlette", "aiohttp", "urllib"],
)
def test_the_status_of_an_answer_decides(make: Callable[[int], Exception], status: int) -> None:
    """408, 425, 429 and 5xx are retried; an answer of success says nothing of the failure."""
    assert is_transient(make(status)) == (status in (200, 408, 425, 429, 500, 503, 599))


@pytest.mark.parametrize("status", [0, 1006, True, "503", None, -404])
def test_what_is_no_status_of_http_decides_nothing(status: object) -> None:
    """Codes of web sockets and of gRPC, text, and numbers that HTTP does not have."""
    error, lasting = ConnectionError(), KeyError()
    error.status_code = lasting.status_code = status  # type: ignore[attr-defined]

    assert is_transient(error)
    assert not is_transient(lasting)


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("30", 30.0),
        (" 1.5 ", 1.5),
        ("Thu, 01 Jan 2026 00:00:40 GMT", 40.0),
        ("Thu, 01 Jan 2026 00:00:40 -0000", 40.0),
        ("Thu, 01 Jan 2026 01:00:40 +0100", 40.0),
        ("Wed, 31 Dec 2025 23:59:00 GMT", 0.0),
        ("-5", 0.0),
        ("nan", 0.0),
        ("inf", 0.0),
        ("soon", 0.0),
        ("", 0.0),
        ("Thu, 99 Jan 2026 00:00:40 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str, wait: float) -> None:
    """What it is not asks for no wait."""
    assert retry_after(answer(503, Retry_After=header), NOW) == wait


@pytest.mark.parametrize(
    "error",
    [
        answer(429, RETRY_AFTER="7"),
        RequestsHTTPError("no", response=Response(429, {"retry-after": "7"})),
        APIStatusError("no", response=httpx.Response(429, headers={"retry-after": "7"})),
        starlette.exceptions.HTTPException(429, headers={"Retry-after": "7"}),
        ClientResponseError(429, {"Retry-After": "7"}),
        url_error(429, RETRY_AFTER="7"),
        ExceptionGroup("both", [ValueError(), answer(429, Retry_After="7")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_retry_after_is_found_in_the_headers_of_every_library(error: Exception) -> None:
    """Those of the response or of the exception, in capitals or not."""
    assert retry_after(error, NOW) == 7.0


def test_retry_after_is_the_least_wait_up_to_max_interval() -> None:
    """Neither jitter nor a short interval goes below it."""
    policy = RetryPolicy(initial_interval=0.1, max_interval=60)

    assert policy.drawn_delay_after(1, 30.0) == 30.0
    assert policy.drawn_delay_after(1, 3600.0) == 60.0
    assert RetryPolicy(initial_interval=40, jitter=False).drawn_delay_after(1, 30.0) == 40.0


@in_memory
@pytest.mark.parametrize("by_date", [False, True], ids=["seconds", "date"])
async def test_a_server_is_left_alone_for_as_long_as_it_asks(
    make_store: MakeStore, by_date: bool
) -> None:
    """The next attempt is not made before."""
    attempts: list[float] = []

    with VirtualClock(start=NOW) as clock:

        @task(retry=RetryPolicy(initial_interval=0.1))
        async def fetch() -> str:
            attempts.append(clock.now() - NOW)
            if len(attempts) > 1:
                return "fetched"
            date = email.utils.format_datetime(datetime.fromtimestamp(NOW + 45, UTC), usegmt=True)
            raise answer(429, Retry_After=date if by_date else "45")

        @workflow
        async def shop() -> str:
            return await fetch()

        async with Runtime(make_store()) as runtime:
            assert await runtime.run(shop(), thread_id="t") == "fetched"

    assert len(attempts) == 2
    assert 44 < attempts[1] - attempts[0] < 60


@in_memory
async def test_the_failure_stands_where_a_predicate_raises(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    """It is recorded and met on a rerun; what the predicate raised is a note on it, and logged."""
    executed: list[None] = []
    met: list[BaseException] = []

    @task(retry=RetryPolicy(initial_interval=0, retry_on=lambda error: error.status > 500))
    async def charge() -> None:
        executed.append(None)
        raise RuntimeError("declined")

    @workflow
    async def shop() -> None:
        try:
            await charge()
        except RuntimeError as error:
            met.append(error)
        if len(met) == 1:
            raise ConnectionError

    async with Runtime(make_store()) as runtime:
        with pytest.raises(ConnectionError):
            await runtime.run(shop(), thread_id="order-A1")
        await runtime.run(shop(), thread_id="order-A1")

    assert len(executed) == 1
    assert [str(error) for error in met] == ["declined", "declined"]
    for error in met:
        assert "has no attribute 'status'" in error.__notes__[0]
    (record,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert "charge on thread 'order-A1'" in record.getMessage()
    assert record.exc_info


def test_retry_on_is_a_class_several_or_a_predicate() -> None:
    """And nothing else decides then."""
    error = KeyError("k")

    assert RetryPolicy(retry_on=KeyError).matches(error)
    assert RetryPolicy(retry_on=(ValueError, LookupError)).matches(error)
    assert RetryPolicy(retry_on=lambda error: error.args == ("k",)).matches(error)
    assert not RetryPolicy(retry_on=ConnectionError).matches(error)


def test_the_first_policy_that_matches_decides() -> None:
    """Several policies in a row; none is None."""
    lookups, anything = RetryPolicy(retry_on=LookupError), RetryPolicy(retry_on=Exception)

    assert first_match([lookups, anything], KeyError()) is lookups
    assert first_match([lookups, anything], ValueError()) is anything
    assert first_match([lookups], ValueError()) is None


def test_a_policy_whose_predicate_raises_is_left_out() -> None:
    """The next one decides; whatever the predicate raises, and though the error takes no note."""

    class Frozen(Exception):
        def __setattr__(self, name: str, value: object) -> None:
            raise TypeError("frozen")

    def odd(error: BaseException) -> bool:
        raise LookupError

    policies = [RetryPolicy(retry_on=odd), RetryPolicy(retry_on=Exception)]

    assert first_match(policies, Frozen()) is policies[1]
    assert first_match(policies[:1], Frozen()) is None


def test_what_ends_the_process_passes_through_a_predicate() -> None:
    """As through any other code of the program."""

    def impatient(error: BaseException) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first_match([RetryPolicy(retry_on=impatient)], ValueError())


def test_a_predicate_that_returns_something_to_await_is_left_out() -> None:
    """Its truth would be that of every object: yes."""

    async def later() -> bool:
        return False

    error = ValueError()

    assert first_match([RetryPolicy(retry_on=lambda error: later())], error) is None
    assert "must return True or False" in error.__notes__[0]


def test_the_wait_grows_up_to_its_limit() -> None:
    """initial_interval * backoff_factor ** (n - 1), at most max_interval, however large n is."""
    policy = RetryPolicy(initial_interval=1, backoff_factor=3, max_interval=20)

    assert [policy.delay_after(n) for n in (1, 2, 3, 4, 100_000)] == [1, 3, 9, 20, 20]
    with pytest.raises(ValueError, match="counted from 1"):
        policy.delay_after(0)


@given(
    initial=st.floats(0, 100),
    factor=st.floats(0, 10),
    limit=st.floats(0, 60),
    attempt=st.integers(1, 2000),
)
@settings(max_examples=100, deadline=None)
def test_jitter_stays_inside_max_interval(
    initial: float, factor: float, limit: float, attempt: int
) -> None:
    """Between half and one and a half of the wait, and never above the limit."""
    policy = RetryPolicy(initial_interval=initial, backoff_factor=factor, max_interval=limit)

    delay = policy.delay_after(attempt)

    assert min(limit, delay * 0.5) <= policy.drawn_delay_after(attempt) <= min(limit, delay * 1.5)


def test_without_jitter_the_wait_is_exact() -> None:
    """The same number each time."""
    policy = RetryPolicy(initial_interval=0.25, jitter=False)

    assert {policy.drawn_delay_after(1) for _ in range(10)} == {0.25}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_attempts": 0}, ValueError),
        ({"initial_interval": -1}, ValueError),
        ({"backoff_factor": float("nan")}, ValueError),
        ({"max_interval": float("inf")}, ValueError),
        ({"retry_on": "ConnectionError"}, TypeError),
        ({"retries": 3}, TypeError),
        ({"max_attempts": "3"}, TypeError),
        ({"max_attempts": 2.5}, TypeError),
        ({"max_attempts": True}, TypeError),
        ({"initial_interval": timedelta(seconds=1)}, TypeError),
        ({"max_interval": "60"}, TypeError),
        ({"backoff_factor": None}, TypeError),
        ({"jitter": 0.5}, TypeError),
        ({"retry_on": int}, TypeError),
        ({"retry_on": (ConnectionError, int)}, TypeError),
        ({"retry_on": (ConnectionError, "TimeoutError")}, TypeError),
        ({"retry_on": [ConnectionError]}, TypeError),
        ({"retry_on": ConnectionError | TimeoutError}, TypeError),
        ({"retry_on": ConnectionError()}, TypeError),
        ({"retry_on": None}, TypeError),
        ({"retry_on": lambda: True}, TypeError),
        ({"retry_on": lambda error, attempt: True}, TypeError),
        ({"retry_on": asyncio.sleep}, TypeError),
        ({"max_attempts": True, "unknown": 1}, TypeError),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(options: dict, error: type[Exception]) -> None:
    """Where it is written, not at the first failure."""
    with pytest.raises(error):
        RetryPolicy(**options)


def test_a_duration_is_seconds_or_a_timedelta() -> None:
    """Positive and finite; the error names the option."""
    assert seconds(timedelta(minutes=1), "timeout") == seconds(60, "timeout") == 60.0
    for wrong in (0, -1, float("inf"), float("nan"), timedelta(0)):
        with pytest.raises(ValueError, match="timeout"):
            seconds(wrong, "timeout")

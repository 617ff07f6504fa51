"""`RetryPolicy`: what is tried again, how often, and after how long."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskflow import RetryPolicy
from taskflow.retry import first_match, is_transient, seconds


def answer(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://shop.test/order")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status))


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError(),
        ConnectionResetError(),
        TimeoutError(),
        OSError(5, "input/output error"),
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        answer(500),
        answer(503),
        RuntimeError("of an unknown kind"),
        ExceptionGroup("both", [ConnectionError(), TimeoutError()]),
    ],
)
def test_what_a_second_attempt_may_mend_is_retried_by_default(error: Exception) -> None:
    """Connection errors, timeouts, 5xx of httpx, and what nobody knows."""
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
        answer(404),
        answer(429),
        ExceptionGroup("one of them", [ConnectionError(), ValueError()]),
    ],
)
def test_what_fails_the_same_way_again_is_not(error: Exception) -> None:
    """Wrong types, values, names, keys, paths, permissions, and HTTP answers below 500."""
    assert not is_transient(error)


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

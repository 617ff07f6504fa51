"""`RetryPolicy`: whether a failed attempt is followed by another one, and after how long."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, timedelta
from typing import Any, TypeAlias

from msgspec import Struct

__all__ = (
    "ANSWER",
    "Answer",
    "RetryOn",
    "RetryPolicy",
    "answer_of",
    "first_match",
    "is_transient",
    "retry_after",
    "seconds",
)

logger = logging.getLogger("taskflow")

RetryOn: TypeAlias = (
    type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]
)

# Exceptions that a second attempt raises again.
LASTING_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    FileExistsError,
    FileNotFoundError,
    ImportError,
    IsADirectoryError,
    LookupError,
    NameError,
    NotADirectoryError,
    NotImplementedError,
    PermissionError,
    RecursionError,
    ReferenceError,
    StopAsyncIteration,
    StopIteration,
    SyntaxError,
    TypeError,
    ValueError,
)


# HTTP answers below 500 after which a second attempt may succeed: the request took too long, came
# too early, or was one of too many.
TRANSIENT_STATUSES = (408, 425, 429)

# The attribute of a rebuilt exception for what its ``response`` said.
ANSWER = "__taskflow_answer__"


class Answer(Struct, frozen=True):
    """The part of an HTTP answer that decides about a second attempt."""

    status: int
    retry_after: str | None = None  # the header: seconds, or a date


def is_transient(error: BaseException) -> bool:
    """Whether a second attempt may succeed: the default ``retry_on``, listed in `RetryPolicy`."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_transient(member) for member in error.exceptions)
    if not isinstance(error, Exception):
        return False
    answer = answer_of(error)
    if answer is not None and answer.status >= 300:
        return answer.status >= 500 or answer.status in TRANSIENT_STATUSES

    return isinstance(error, ConnectionError | TimeoutError) or not isinstance(
        error, LASTING_FAILURES
    )


def answer_of(error: BaseException) -> Answer | None:
    """The HTTP answer that ``error`` tells of, as the exceptions of HTTP libraries do.

    It has a ``status_code`` (starlette, openai), its ``response`` has one (httpx, requests), or it
    has a ``status`` (aiohttp, urllib). None where it tells of no answer.
    """
    recorded = _attribute(error, ANSWER)
    if isinstance(recorded, Answer):
        return recorded
    response = _attribute(error, "response")
    for holder, name in ((error, "status_code"), (response, "status_code"), (error, "status")):
        status = _attribute(holder, name)
        if isinstance(status, int) and not isinstance(status, bool) and 100 <= status <= 599:
            headers = (_attribute(each, "headers") for each in (response, error))
            values = (_header(each, "retry-after") for each in headers)
            return Answer(int(status), next((value for value in values if value), None))
    return None


def retry_after(error: BaseException, now: float) -> float:
    """Seconds for which a server has asked to be left alone, from ``now`` on; 0 if it has not.

    Of a group, the longest time of its members.
    """
    if isinstance(error, BaseExceptionGroup):
        return max(retry_after(member, now) for member in error.exceptions)
    answer = answer_of(error)
    if answer is None or answer.retry_after is None:
        return 0.0

    try:
        asked = float(answer.retry_after)
    except ValueError:
        asked = _time_of(answer.retry_after) - now
    return asked if 0 < asked < float("inf") else 0.0


def _time_of(date: str) -> float:
    """Seconds since the epoch of a date in HTTP; 0 for other text."""
    from email.utils import parsedate_to_datetime  # not above: few programs need it

    try:
        moment = parsedate_to_datetime(date)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def _attribute(holder: Any, name: str) -> Any:
    try:
        return getattr(holder, name, None)
    except Exception:  # a property of a library, which may raise anything
        return None


def _header(headers: Any, name: str) -> str | None:
    """The value of a header, in a mapping that may or may not tell upper from lower case."""
    try:
        found = (str(value) for key, value in headers.items() if str(key).lower() == name)
        return next(found, None)
    except Exception:  # no mapping
        return None


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """The number of attempts of a failing call, and the waits between them.

    ``max_attempts`` counts the first attempt too. The wait after failed attempt n is
    ``initial_interval * backoff_factor ** (n - 1)`` seconds, at most ``max_interval``; with
    ``jitter`` it is drawn between half and one and a half of that, and stays inside
    ``max_interval``. A ``Retry-After`` of the failure's HTTP answer (seconds or a date) is the
    least wait, up to ``max_interval``.

    ``retry_on`` is an exception class, a tuple of them, or a predicate of the exception. Where a
    predicate raises, its policy does not apply; the failure gets a note of it. By default these
    are retried:

    - HTTP answers with status 408, 425, 429 and 5xx, of any exception with such a ``status_code``,
      ``response.status_code`` (httpx, requests, starlette, openai, anthropic, …) or ``status``
      (aiohttp, urllib); exceptions with another status from 300 on are not
    - ``ConnectionError`` and ``TimeoutError`` (thus `TaskTimeout`), the connection errors and
      timeouts of libraries, and other ``OSError``
    - exceptions of classes that are not listed here, such as ``RuntimeError`` or those of a program
    - groups of exceptions whose members all are

    and these are not: ``ArithmeticError``, ``AssertionError``, ``AttributeError``, ``BufferError``,
    ``ImportError``, ``LookupError`` (``KeyError``, ``IndexError``), ``NameError``,
    ``NotImplementedError``, ``RecursionError``, ``ReferenceError``, ``StopIteration``,
    ``StopAsyncIteration``, ``SyntaxError``, ``TypeError``, ``ValueError`` (thus certificates that
    do not verify, and text that is no JSON), ``FileExistsError``, ``FileNotFoundError``,
    ``IsADirectoryError``, ``NotADirectoryError``, ``PermissionError``, and whatever is no
    ``Exception``.

    Raises TypeError or ValueError where an argument makes no sense.
    """

    max_attempts: int = 3
    initial_interval: float = 0.5
    backoff_factor: float = 2.0
    max_interval: float = 60.0
    jitter: bool = True
    retry_on: RetryOn = is_transient

    def __post_init__(self) -> None:
        if isinstance(self.max_attempts, bool) or not isinstance(self.max_attempts, int):
            raise TypeError(f"max_attempts is a whole number, got {self.max_attempts!r}")
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, got {self.max_attempts}")
        for name in ("initial_interval", "backoff_factor", "max_interval"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                what = "a number" if name == "backoff_factor" else "a number of seconds"
                raise TypeError(f"{name} is {what}, got {value!r}")
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be finite and not negative: {value}")
        if self.jitter not in (True, False):  # 0 and 1 are these
            raise TypeError(f"jitter is True or False, got {self.jitter!r}")
        if self.retry_on is not is_transient:
            _check_retry_on(self.retry_on)

    def matches(self, error: BaseException) -> bool:
        """Whether this policy applies to ``error``, and retries it. Raises what a predicate does.

        TypeError where the predicate returns something to be awaited.
        """
        if isinstance(self.retry_on, type | tuple):
            return isinstance(error, self.retry_on)

        verdict = self.retry_on(error)
        if hasattr(verdict, "__await__"):
            getattr(verdict, "close", bool)()  # or it would warn that it was never awaited
            raise TypeError(f"retry_on must return True or False, and returned {verdict!r}")
        return bool(verdict)

    def delay_after(self, attempt: int) -> float:
        """Seconds to wait after failed attempt number ``attempt`` (from 1), before jitter."""
        if attempt < 1:
            raise ValueError(f"attempts are counted from 1, got {attempt}")

        try:
            delay = self.initial_interval * self.backoff_factor ** (attempt - 1)
        except OverflowError:
            return self.max_interval if self.initial_interval else 0.0
        return min(self.max_interval, delay)

    def drawn_delay_after(self, attempt: int, least: float = 0.0) -> float:
        """`delay_after` with jitter; at least ``least`` seconds, and at most ``max_interval``."""
        delay = self.delay_after(attempt)
        if self.jitter:
            import random  # not above: importing it takes as long as half of this package

            delay *= random.uniform(0.5, 1.5)
        return min(self.max_interval, max(delay, least))


def _check_retry_on(retry_on: Any) -> None:
    """Raise TypeError for what cannot tell which exceptions are retried."""
    if isinstance(retry_on, tuple):
        for each in retry_on:
            if not isinstance(each, type | tuple):
                raise TypeError(f"retry_on is a tuple of exception classes, and holds {each!r}")
            _check_retry_on(each)
    elif isinstance(retry_on, type):
        if not issubclass(retry_on, BaseException):
            raise TypeError(f"retry_on takes exception classes, and {retry_on!r} is none")
    elif not callable(retry_on):
        raise TypeError(
            f"retry_on takes an exception class, a tuple of them, or a predicate, got {retry_on!r}"
        )
    else:
        _check_predicate(retry_on)


def _check_predicate(predicate: Callable[..., Any]) -> None:
    import inspect  # not above: policies with a predicate are few

    if inspect.iscoroutinefunction(predicate) or inspect.iscoroutinefunction(
        getattr(predicate, "__call__", None)  # noqa: B004 - of an object with an async one
    ):
        raise TypeError(f"retry_on decides at once: {predicate!r} is async")
    try:
        signature = inspect.signature(predicate)
    except (ValueError, TypeError):  # of C code
        return
    try:
        signature.bind(Exception())
    except TypeError as error:
        raise TypeError(
            f"retry_on is called with the exception alone, and {predicate!r} takes "
            f"{signature}: {error}"
        ) from None


def first_match(
    policies: Sequence[RetryPolicy], error: BaseException, whose: str = "a call"
) -> RetryPolicy | None:
    """The first policy that matches ``error``; ``None`` where none does.

    A policy whose predicate raises does not match: that is noted on ``error``, and logged as a
    fault in the policies of ``whose``.
    """
    for policy in policies:
        try:
            if policy.matches(error):
                return policy
        except Exception as fault:
            what = f"retry_on raised {type(fault).__name__} ({fault}): its policy was left out"
            with contextlib.suppress(Exception):  # of a class that takes no notes
                error.add_note(what)
            logger.error("%s failed, and %s", whose, what, exc_info=fault)
    return None


def seconds(duration: float | timedelta, what: str) -> float:
    """``duration`` in seconds. Raises ValueError, with ``what`` as its name, if not positive."""
    value = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    if not 0 < value < float("inf"):
        raise ValueError(f"{what} must be a positive, finite number of seconds, got {duration!r}")

    return value

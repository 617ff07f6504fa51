"""`RetryPolicy`: whether a failed attempt is followed by another one, and after how long."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeAlias

from msgspec import Struct

__all__ = ("RetryOn", "RetryPolicy", "first_match", "is_transient", "seconds")

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


def is_transient(error: BaseException) -> bool:
    """Whether a second attempt may succeed: the default ``retry_on`` of a `RetryPolicy`.

    True for connection errors, timeouts, HTTP 5xx of httpx and exceptions of unknown classes; false
    for wrong types, values, names, keys, paths and permissions, and for HTTP answers below 500.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(is_transient(member) for member in error.exceptions)
    # Not imported here: an exception of httpx exists only where httpx is imported already.
    httpx: Any = sys.modules.get("httpx")
    if httpx is not None and isinstance(error, httpx.HTTPStatusError):
        answer: Any = error
        return bool(answer.response.status_code >= 500)

    return isinstance(error, Exception) and not isinstance(error, LASTING_FAILURES)


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """The number of attempts of a failing call, and the waits between them.

    ``max_attempts`` counts the first attempt too. The wait after failed attempt n is
    ``initial_interval * backoff_factor ** (n - 1)`` seconds, at most ``max_interval``; with
    ``jitter`` it is drawn between half and one and a half of that, and stays inside
    ``max_interval``. ``retry_on`` is an exception class, several, or a predicate of the exception.
    """

    max_attempts: int = 3
    initial_interval: float = 0.5
    backoff_factor: float = 2.0
    max_interval: float = 60.0
    jitter: bool = True
    retry_on: RetryOn = is_transient

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, got {self.max_attempts}")
        for name in ("initial_interval", "backoff_factor", "max_interval"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be finite and not negative: {getattr(self, name)}")
        if not isinstance(self.retry_on, type | tuple) and not callable(self.retry_on):
            raise TypeError("retry_on takes an exception class, a tuple of them, or a predicate")

    def matches(self, error: BaseException) -> bool:
        """Whether this policy applies to ``error``, and retries it."""
        if isinstance(self.retry_on, type | tuple):
            return isinstance(error, self.retry_on)

        return bool(self.retry_on(error))

    def delay_after(self, attempt: int) -> float:
        """Seconds to wait after failed attempt number ``attempt`` (from 1), before jitter."""
        if attempt < 1:
            raise ValueError(f"attempts are counted from 1, got {attempt}")

        try:
            delay = self.initial_interval * self.backoff_factor ** (attempt - 1)
        except OverflowError:
            return self.max_interval if self.initial_interval else 0.0
        return min(self.max_interval, delay)

    def drawn_delay_after(self, attempt: int) -> float:
        """`delay_after` with jitter: a random number of seconds, at most ``max_interval``."""
        delay = self.delay_after(attempt)
        if not self.jitter:
            return delay

        import random  # not above: importing it takes as long as half of this package

        return min(self.max_interval, delay * random.uniform(0.5, 1.5))


def first_match(policies: Sequence[RetryPolicy], error: BaseException) -> RetryPolicy | None:
    """The first policy that matches ``error``; ``None`` where none does."""
    return next((policy for policy in policies if policy.matches(error)), None)


def seconds(duration: float | timedelta, what: str) -> float:
    """``duration`` in seconds. Raises ValueError, with ``what`` as its name, if not positive."""
    value = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    if not 0 < value < float("inf"):
        raise ValueError(f"{what} must be a positive, finite number of seconds, got {duration!r}")

    return value

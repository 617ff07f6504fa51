"""When a failed attempt is followed by another one, and after how long."""

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

# What fails the same way again, however often it is tried.
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
    """Whether a second attempt might mend it: what ``RetryPolicy`` retries by default.

    Connection errors, timeouts, HTTP 5xx of httpx and exceptions of unknown kinds are; wrong
    types, values, names, keys, paths and permissions, and HTTP answers below 500, are not.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(is_transient(member) for member in error.exceptions)
    # An exception of httpx can only be met where httpx was imported already.
    httpx: Any = sys.modules.get("httpx")
    if httpx is not None and isinstance(error, httpx.HTTPStatusError):
        answer: Any = error
        return bool(answer.response.status_code >= 500)

    return isinstance(error, Exception) and not isinstance(error, LASTING_FAILURES)


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """How often a failing call is attempted, and how long to wait in between.

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
        """Whether this policy decides about ``error``, and would try again."""
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
        """The same with jitter: a random number of seconds, never above ``max_interval``."""
        delay = self.delay_after(attempt)
        if not self.jitter:
            return delay

        import random  # where it is used: it takes as long to import as half of this package

        return min(self.max_interval, delay * random.uniform(0.5, 1.5))


def first_match(policies: Sequence[RetryPolicy], error: BaseException) -> RetryPolicy | None:
    """The first policy that matches ``error`` decides; ``None`` where none does."""
    return next((policy for policy in policies if policy.matches(error)), None)


def seconds(duration: float | timedelta, what: str) -> float:
    """``duration`` in seconds; ``what`` names it in the error if it is not a positive one."""
    value = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    if not 0 < value < float("inf"):
        raise ValueError(f"{what} must be a positive, finite number of seconds, got {duration!r}")

    return value

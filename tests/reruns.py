"""Runs that end in failure, and are run again."""

from __future__ import annotations

from typing import Any

import pytest

from taskflow import Runtime, Workflow


class Crash(Exception):
    """What ends a run."""


class CrashOnce:
    """Called in a body, it ends the first run, and lets those after it pass."""

    def __init__(self) -> None:
        self._has_crashed = False

    def __call__(self) -> None:
        if not self._has_crashed:
            self._has_crashed = True
            raise Crash


async def fails_twice(
    runtime: Runtime, flow: Workflow[[], Any, Any], error: type[Exception], match: str | None = None
) -> list[BaseException]:
    """Run ``flow`` and rerun it: what each run raises, which is an ``error``."""
    raised: list[BaseException] = []
    for _ in range(2):
        with pytest.raises(error, match=match) as caught:
            await runtime.run(flow(), thread_id="t")
        raised.append(caught.value)
    return raised

"""The lists of names that code is judged by: guesses, each with the reason for what stands on it.

A name stands here without its module where the functions of several modules are meant.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import random
import secrets
import uuid
from collections import ChainMap, OrderedDict, UserDict, UserList, deque
from types import SimpleNamespace
from typing import Any, Final

import anyio

import taskflow
from taskflow.testing.doubles.loop_time import AsyncioTime
from taskflow.testing.doubles.virtual import VirtualClock
from taskflow.testing.origins import OURS

# -- The time of day, and chance: other values in every run.

# Functions of `time` that read a clock; of these, how many arguments make them format a given time.
CLOCKS: Final = {
    "time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "localtime",
    "gmtime", "ctime", "clock_gettime", "strftime", "process_time", "thread_time",
}  # fmt: skip
TIMES_GIVEN: Final = {"localtime": 1, "gmtime": 1, "ctime": 1, "strftime": 2}
# Class methods of `datetime` that read a clock.
TODAY: Final = {"now", "utcnow", "today"}
# What an event loop's time is read by, and the file of the virtual one, which passes calls on.
LOOP_TIMES: Final = {
    asyncio.BaseEventLoop.time.__code__, anyio.current_time.__code__, VirtualClock.now.__code__,
    AsyncioTime.now.__code__,
}  # fmt: skip
VIRTUAL: Final = AsyncioTime.now.__code__.co_filename
# Files whose functions draw; of those of `uuid` only these, the others convert.
DRAWING: Final = {random.__file__: "random", uuid.__file__: "uuid", secrets.__file__: "secrets"}
UNIQUE: Final = {"uuid1", "uuid4", "uuid6", "uuid7", "uuid8", "getnode"}
SHARED_RANDOM: Final[object] = random.random.__self__  # type: ignore[attr-defined]

# -- Files, sockets, processes, databases: the world outside, which no record holds.

# Python's audit events of it, by how they begin, and functions of `os` that raise none.
AUDITED: Final = (
    "open", "socket.", "subprocess.", "sqlite3.connect", "os.", "shutil.", "glob.", "urllib.",
    "http.", "smtplib.", "ftplib.", "pathlib.",
)  # fmt: skip
UNAUDITED: Final = {
    getattr(os, name)
    for name in (
        "stat", "lstat", "access", "readlink", "statvfs", "getcwd", "getpid", "times",
        "getloadavg", "cpu_count", "uname", "getlogin",
    )
    if hasattr(os, name)
}  # fmt: skip
# Methods of a SQLite connection or cursor, which raise no audit event.
QUERIES: Final = {"execute", "executemany", "executescript"}
# Packages that read and write for themselves: code, logs, time zones, translations.
UNHEARD: Final = {
    "importlib", "pkgutil", "logging", "linecache", "traceback", "warnings", "inspect", "zoneinfo",
    "dateutil", "pytz", "mimetypes", "locale", "gettext", "babel",
}  # fmt: skip
# What os.environ is read by: the next deploy may change it.
ENVIRONMENT: Final = type(os.environ).__getitem__.__code__

# -- What a workflow does beside calling tasks. By the function's name: what it is, and whose.

HOP: Final = "has a function executed in another thread: what it gives is not recorded"
LIMIT: Final = "sets a time limit: what it cuts off is not recorded"
SLEEP: Final = "waits: a rerun waits again"
FUNCTIONS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "to_thread": (HOP, ("asyncio",)),
    "run_in_executor": (HOP, ("asyncio",)),
    "run_sync": (HOP, ("anyio.to_thread",)),
    "to_thread_run_sync": (HOP, ("trio",)),
    "submit": (HOP, ("concurrent.futures",)),
    "start": (HOP, ("threading",)),
    "timeout": (LIMIT, ("asyncio",)),
    "timeout_at": (LIMIT, ("asyncio",)),
    "wait_for": (LIMIT, ("asyncio",)),
    "move_on_after": (LIMIT, ("anyio",)),
    "fail_after": (LIMIT, ("anyio",)),
    "sleep": (SLEEP, ("asyncio", "anyio", "trio")),
}
AWAITED: Final = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
# What ``async with`` and ``async for`` call, which mostly only passes on.
PROTOCOL: Final = {"__aenter__", "__aexit__", "__anext__"}
# Modules whose coroutines wait for what others do: awaiting them is no work of its own.
COORDINATING: Final = {
    "asyncio.locks", "asyncio.queues", "asyncio.tasks", "asyncio.taskgroups", "asyncio.timeouts",
    "anyio._core._synchronization", "anyio._core._tasks", "anyio.streams.memory",
    "anyio._backends._asyncio", "trio._sync", "trio._channel", "contextlib",
}  # fmt: skip
# taskflow's own: where calls are made and awaited, what makes a call without being a task, and the
# functions that execute a body.
CALLING: Final = os.path.join(OURS, "calls", "")
OUR_CALLS: Final = (
    taskflow.receive, taskflow.sleep, taskflow.sleep_until, taskflow.race, taskflow.as_completed,
    taskflow.emit, taskflow.now, taskflow.random, taskflow.uuid,
)  # fmt: skip
STEPS: Final = {"stepped", "work"}

# -- What is left in the process, which another one does not have.

# OrderedDict before dict: its own methods keep its order.
CONTAINERS: Final = (OrderedDict, dict, set, list, deque, bytearray)
# Methods that change one of these.
MUTATORS: Final = {
    "append", "appendleft", "extend", "extendleft", "insert", "add", "update", "pop", "popleft",
    "popitem", "remove", "discard", "clear", "__setitem__", "__delitem__",
}  # fmt: skip
# Classes of the standard library whose attributes are what they hold.
HOLDERS: Final = (SimpleNamespace, UserDict, UserList, ChainMap)
# Classes of event loops, and how they are called, which a process that dies lets go of.
LOOPS: Final = ("asyncio", "anyio", "trio")
LOCKS: Final = {
    "Lock", "Semaphore", "Condition", "Event", "Queue", "Barrier", "CapacityLimiter",
    "StrictFIFOLock", "MemoryObjectStreamState",
}  # fmt: skip

# -- The order of sets, which each process draws anew (``PYTHONHASHSEED``).

# Functions that give what they are given in its order, and methods that do.
ORDERED: Final = {
    "list", "tuple", "iter", "enumerate", "zip", "map", "filter", "next", "dict", "max", "min",
    "sorted", "sum", "reduce", "chain", "deque", "islice", "product", "combinations",
    "permutations", "groupby", "accumulate", "Counter", "nlargest", "nsmallest", "cycle",
    "pairwise", "batched", "zip_longest", "starmap", "takewhile", "dropwhile", "reversed",
    "join", "extend", "fromkeys", "from_iterable",
}  # fmt: skip
# Functions that make a list of a set within what they are given.
ENCODING: Final = {"dumps", "encode", "json_encode"}
# Functions that give something else in another process, or show a set.
SEEDED: Final[tuple[Any, ...]] = (hash, str, repr)
# Classes whose hash is the same in every process.
PLAIN: Final = (int, float, bool)

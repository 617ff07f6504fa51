"""The fixtures of the suite: an open store, and others on the same records."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, TypeAlias

import pytest

from taskflow.stores.base import Store
from taskflow.testing.rows import OWNER

__all__ = ("OTHER_OWNER", "Fixtures", "Opens")

OTHER_OWNER: Final = "other-owner-of-the-tests"

Opens: TypeAlias = Callable[[str], AbstractAsyncContextManager[Store]]


class Fixtures:
    """The fixture that a subclass of the suite defines, and those made of it."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def make_store(self) -> Callable[[], Store]:
        """Override it: return a callable that gives a store on the same records at each call.

        As one process after another, or beside another, would open them; a new test begins without
        any records. It may give one object, if that can be open for several owners at once.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no fixture make_store: see taskflow.testing.conformance"
        )

    @pytest.fixture
    def anyio_backend(self) -> object:
        """The event loop, as anyio names it: override it (with ``params``) for others."""
        return "asyncio"

    @pytest.fixture
    def opened(self, make_store: Callable[[], Store]) -> Opens:
        """Opens the records for an owner, for as long as a block."""

        @asynccontextmanager
        async def open_store(owner: str) -> AsyncIterator[Store]:
            store = make_store()
            await store.open(owner)
            try:
                yield store
            finally:
                await store.close(owner)

        return open_store

    @pytest.fixture
    async def store(self, opened: Opens, anyio_backend: object) -> AsyncIterator[Store]:
        """A store that is open for OWNER."""
        async with opened(OWNER) as store:
            yield store

    @pytest.fixture
    async def other(self, opened: Opens, anyio_backend: object) -> AsyncIterator[Store]:
        """The same records, open for OTHER_OWNER."""
        async with opened(OTHER_OWNER) as store:
            yield store

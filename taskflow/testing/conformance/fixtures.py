"""What the tests of the suite are given: an open store, and others on the same records."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

import pytest

from taskflow.stores.base import Store
from taskflow.testing.rows import OWNER

__all__ = ("Fixtures", "Neighbour")

Neighbour: TypeAlias = Callable[[str], AbstractAsyncContextManager[Store]]


class Fixtures:
    """The fixtures that a subclass of the suite gives, and those made of them."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def make_store(self) -> Callable[[], Store]:
        """Override it: what is returned gives a store on the same records each time it is called.

        As one process after another, or beside another, would open them; a new test begins without
        any records. It may be one object, if that can be open for several owners at once.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no fixture make_store: see taskflow.testing.conformance"
        )

    @pytest.fixture
    def anyio_backend(self) -> object:
        """The event loop, as anyio names it: override it (with ``params``) for others."""
        return "asyncio"

    @pytest.fixture
    async def store(
        self, make_store: Callable[[], Store], anyio_backend: object
    ) -> AsyncIterator[Store]:
        """A store that is open for the owner of the tests."""
        store = make_store()
        await store.open(OWNER)
        yield store
        await store.close(OWNER)

    @pytest.fixture
    def neighbour(self, make_store: Callable[[], Store]) -> Neighbour:
        """Opens the same records once more, for another runtime."""

        @asynccontextmanager
        async def open_store(owner: str) -> AsyncIterator[Store]:
            store = make_store()
            await store.open(owner)
            try:
                yield store
            finally:
                await store.close(owner)

        return open_store

"""The promises of `taskflow.stores.base`, as tests that any store can be put to.

    import pytest

    from taskflow import MemoryStore, SQLiteStore
    from taskflow.testing.conformance import StoreConformance

    class TestMyStore(StoreConformance):
        @pytest.fixture
        def make_store(self, tmp_path):
            return lambda: SQLiteStore(tmp_path / "my.db")

pytest collects the tests of the subclass. They are given stores by the fixture ``make_store``: it
returns a callable that opens the same records again and again, as one process after another would,
or several at once. Each test begins without any records: a store of a server is given a schema, a
prefix or a database of its own, and the fixture drops it in the end.

The tests are marked for anyio's plugin of pytest, which runs them on asyncio. The fixture
``anyio_backend`` chooses the event loops of a store that is not bound to it:

    class TestMyOtherStore(StoreConformance):
        @pytest.fixture(params=["asyncio", "trio"])
        def anyio_backend(self, request):
            return request.param

        @pytest.fixture
        def make_store(self):
            store = MemoryStore()
            return lambda: store

What a test in one process cannot show is left to the store's own tests: that what was committed
survives a loss of power, that a lease ends with its process and with time, that damaged rows are
CheckpointCorrupt, and how long a prune holds up others.

- `fixtures`: the stores that the tests are given
- `claims`: which owner is given a thread's run
- `returns`: runs that begin beside those that have ended, or continue them later
- `batches`: one commit is whole, in order, and fenced by epochs
- `ends`: how runs end; ``cancel``, ``forget``, ``delete``
- `pauses`: runs that wait, and which are due
- `signals`: sent to a run once, and taken by one call
- `owners`: several runtimes on the same records
- `histories`: ``replace``, ``fork``, ``adopt``, snapshots and ``prune``
- `reads`: pages, filters, and results that threads share

This package imports pytest; ``taskflow.testing`` does not import it.
"""

from __future__ import annotations

import pytest

TOPICS = (
    "batches",
    "claims",
    "ends",
    "histories",
    "owners",
    "pauses",
    "reads",
    "returns",
    "signals",
)
# So that a failing assertion shows its values; each by name, as this package is imported already.
pytest.register_assert_rewrite(*(f"{__name__}.{topic}" for topic in TOPICS))

from taskflow.testing.conformance.batches import Batches  # noqa: E402
from taskflow.testing.conformance.claims import Claims  # noqa: E402
from taskflow.testing.conformance.ends import Ends  # noqa: E402
from taskflow.testing.conformance.histories import Histories  # noqa: E402
from taskflow.testing.conformance.owners import Owners  # noqa: E402
from taskflow.testing.conformance.pauses import Pauses  # noqa: E402
from taskflow.testing.conformance.reads import Reads  # noqa: E402
from taskflow.testing.conformance.returns import Returns  # noqa: E402
from taskflow.testing.conformance.signals import Signals  # noqa: E402

__all__ = ("StoreConformance",)


class StoreConformance(Batches, Claims, Returns, Ends, Reads, Owners, Histories, Signals, Pauses):
    """Every test that a store has to pass: subclass it, and override the fixture ``make_store``."""

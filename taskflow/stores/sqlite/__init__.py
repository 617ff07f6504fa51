"""`SQLiteStore`: one file, written by one connection of each process, in one trip a commit.

    store            the protocol's methods, over a session
    session          what is open from `open` to `close`; trips under the write lock
    connection       a thread for each connection, and cancellation; the only door to aiosqlite
    opening          whether a file is ours and sound; its schema and settings
    lease            the lease of an owner, and which owners are gone
    tables           the rows as the shared rules ask for them; `rows` reads single ones
    statements       the schema and all SQL; `history` copies threads, `pruning` deletes
    files            names of files, and whether they are still there; `locks` on them
    failures         what is refused, as errors that name the file

Only this package knows SQL. Its functions over a `sqlite3.Connection` run in that one's thread.
"""

from taskflow.stores.sqlite.store import SQLiteStore

__all__ = ("SQLiteStore",)

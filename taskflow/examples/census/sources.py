"""Which Python files a folder holds, and the digests of their contents.

Names of files need not be UTF-8, and what is recorded is JSON: in a `Source` and everywhere after
it a path is percent-encoded text, which `file_at` and `shown` turn back.
"""

from __future__ import annotations

import os
import stat
import string
from hashlib import blake2b
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, unquote_to_bytes

from msgspec import Struct

__all__ = ("Listing", "Source", "Unreadable", "digest_of", "file_at", "find", "portable", "shown")

# Other people's code, and no code.
SKIPPED: Final = {"site-packages", "dist-packages", "__pycache__"}

LEGIBLE: Final = string.punctuation.replace("%", "") + " "


class Source(Struct, frozen=True):
    """A Python file as it was found."""

    path: str  # from the folder; see above
    digest: str  # of its content


class Unreadable(Struct, frozen=True):
    """A file or folder that could not be read, or not any more when it was to be counted."""

    path: str
    reason: str


class Listing(Struct):
    """What a folder holds, in the order of the paths."""

    sources: list[Source]
    unreadable: list[Unreadable]


def find(folder: Path) -> Listing:
    """Every Python file below ``folder``, links to folders not followed."""
    listing = Listing([], [])

    def note(error: OSError, path: str | None = None) -> None:
        name = portable(os.path.relpath(path or error.filename, folder))
        listing.unreadable.append(Unreadable(name, error.strerror or str(error)))

    for parent, folders, files in os.walk(folder, onerror=note):
        folders[:] = sorted(set(folders) - SKIPPED)
        for name in sorted(files):
            if not name.endswith(".py"):
                continue
            path = os.path.join(parent, name)
            try:
                if stat.S_ISREG(os.stat(path).st_mode):  # reading a named pipe would never end
                    digest = digest_of(Path(path).read_bytes())
                    listing.sources.append(Source(portable(os.path.relpath(path, folder)), digest))
            except OSError as error:
                note(error, path)
    return listing


def digest_of(content: bytes) -> str:
    """128 bits of BLAKE2b, in hex."""
    return blake2b(content, digest_size=16).hexdigest()


def portable(path: str | Path) -> str:
    """A path as text that JSON carries, whatever bytes it is made of."""
    return quote(os.fsencode(path), safe=LEGIBLE)


def file_at(path: str) -> Path:
    """Where a portable path leads."""
    return Path(os.fsdecode(unquote_to_bytes(path)))


def shown(path: str) -> str:
    """A portable path for people: bytes that are not UTF-8 become question marks."""
    return unquote(path, errors="replace")

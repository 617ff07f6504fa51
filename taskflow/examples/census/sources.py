"""The Python files of a folder, and the digests of their contents.

Names of files need not be UTF-8, but recorded values are JSON. So the path in a `Source`, and
everywhere after it, is percent-encoded text, which `file_at` and `shown` decode.
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

# Folders of installed packages, and of byte code.
SKIPPED: Final = {"site-packages", "dist-packages", "__pycache__"}

LEGIBLE: Final = string.punctuation.replace("%", "") + " "


class Source(Struct, frozen=True):
    """A Python file and its digest when it was found."""

    path: str  # relative to the folder, percent-encoded
    digest: str  # of the content


class Unreadable(Struct, frozen=True):
    """A file or folder that could not be read, when it was found or when it was to be counted."""

    path: str
    reason: str


class Listing(Struct):
    """The files of a folder, in the order of their paths."""

    sources: list[Source]
    unreadable: list[Unreadable]


def find(folder: Path) -> Listing:
    """Every Python file below ``folder``; links to folders are not followed."""
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
    """The path that `portable` encoded."""
    return Path(os.fsdecode(unquote_to_bytes(path)))


def shown(path: str) -> str:
    """A portable path for people: bytes that are not UTF-8 become question marks."""
    return unquote(path, errors="replace")

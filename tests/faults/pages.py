"""Where in a SQLite file which bytes are, by its format: so that each kind may be damaged."""

from __future__ import annotations

import struct
from collections import defaultdict

TABLE_LEAF, TABLE_INTERIOR, INDEX_LEAF, INDEX_INTERIOR = 0x0D, 0x05, 0x0A, 0x02
WIDTHS = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 7: 8, 8: 0, 9: 0}  # bytes, by serial type
HEADER = 100  # bytes, of the file
SCHEMA_COLUMNS = ("type", "name", "tbl_name", "rootpage", "sql")


def regions(content: bytes, columns: dict[str, list[str]]) -> dict[str, list[int]]:
    """The positions of each kind of byte; ``columns`` has the columns of each table."""
    found: dict[str, list[int]] = defaultdict(list)
    found["file header"] = list(range(HEADER))
    roots = _rows(content, 1, "sqlite_master", list(SCHEMA_COLUMNS), found)
    used = {1}
    for type_, name, root in roots:
        pages = _pages(content, root)
        used.update(pages)
        if type_ == "table" and name in columns:
            _rows(content, root, name, columns[name], found)
        else:
            found["index pages"] += [at for page in pages for at in _used(content, page)]
        found["page headers"] += [at for page in pages for at in _head(content, page)]
    count = len(content) // _page_size(content)
    for page in set(range(1, count + 1)) - used:
        found["free and pointer pages"] += _bounds(content, page)
    return {name: [at for at in places if at < len(content)] for name, places in found.items()}


def _page_size(content: bytes) -> int:
    (size,) = struct.unpack_from(">H", content, 16)
    return 65536 if size == 1 else int(size)


def _bounds(content: bytes, page: int) -> range:
    size = _page_size(content)
    return range((page - 1) * size, page * size)


def _start(content: bytes, page: int) -> int:
    """Where the header of a page's tree begins."""
    return HEADER if page == 1 else _bounds(content, page).start


def _cells(content: bytes, page: int) -> list[int]:
    start = _start(content, page)
    (count,) = struct.unpack_from(">H", content, start + 3)
    first = start + (12 if content[start] in (TABLE_INTERIOR, INDEX_INTERIOR) else 8)
    base = _bounds(content, page).start
    return [base + struct.unpack_from(">H", content, first + 2 * each)[0] for each in range(count)]


def _head(content: bytes, page: int) -> range:
    """The header of a tree's page, and the places of its cells."""
    start = _start(content, page)
    return range(start, start + 12 + 2 * len(_cells(content, page)))


def _used(content: bytes, page: int) -> list[int]:
    cells = _cells(content, page)
    return list(range(min(cells), _bounds(content, page).stop)) if cells else []


def _pages(content: bytes, root: int) -> list[int]:
    """The pages of one tree."""
    pages, pending = [], [root]
    while pending:
        page = pending.pop()
        pages.append(page)
        start = _start(content, page)
        if content[start] in (TABLE_INTERIOR, INDEX_INTERIOR):
            pending.append(struct.unpack_from(">I", content, start + 8)[0])
            pending += [struct.unpack_from(">I", content, at)[0] for at in _cells(content, page)]
    return pages


def _rows(
    content: bytes, root: int, table: str, columns: list[str], found: dict[str, list[int]]
) -> list[tuple[str, str, int]]:
    """Note where the columns of a table's rows are; type, name and root page of the schema's."""
    roots: list[tuple[str, str, int]] = []
    for page in _pages(content, root):
        if content[_start(content, page)] != TABLE_LEAF:
            continue
        for cell in _cells(content, page):
            _, at = _varint(content, cell)
            found[f"{table} rowid"] += [at]
            _, head = _varint(content, at)
            found[f"{table} types"] += [cell, head]
            size, at = _varint(content, head)
            place, values = head + size, []
            for column in columns:
                if at >= head + size:
                    break  # added later: it has its default
                found[f"{table} types"].append(at)
                kind, at = _varint(content, at)
                width = WIDTHS.get(kind, (kind - 12) // 2)
                found[f"{table}.{column}"] += range(place, place + width)
                values.append(content[place : place + width])
                place += width
            if table == "sqlite_master":
                number = int.from_bytes(values[3], "big")
                roots.append((values[0].decode(), values[1].decode(), number))
    return roots


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = 0
    for each in range(at, at + 8):
        value = value << 7 | content[each] & 0x7F
        if content[each] < 0x80:
            return value, each + 1
    return value << 8 | content[at + 8], at + 9

"""A realistic payload of 64 KiB: a record of text, numbers and lists."""

from functools import cache
from typing import TypedDict

import msgspec

__all__ = ("PAGE_BYTES", "Page", "page")

PAGE_BYTES = 64 * 1024

TEXT = (
    "durable async python records the outcome of every task before anybody sees it and hands the "
    "recorded result back when the same program runs again after a crash a deploy or a signal"
)
WORDS = TEXT.split()


class Paragraph(TypedDict):
    heading: str
    text: str
    score: float
    links: list[str]


class Page(TypedDict):
    """A page, as a crawler might record it."""

    url: str
    title: str
    status: int
    paragraphs: list[Paragraph]


@cache
def page(number: int) -> Page:
    """Page ``number``, with text of its own; as JSON `PAGE_BYTES` long to within a paragraph."""
    made = Page(
        url=f"https://example.org/{number}", title=f"Page {number}", status=200, paragraphs=[]
    )
    size = len(msgspec.json.encode(made))
    while size < PAGE_BYTES:
        position = len(made["paragraphs"])
        start = number * 7 + position * 3
        paragraph = Paragraph(
            heading=f"Section {position}: “{WORDS[start % len(WORDS)]}”",
            text=" ".join(WORDS[(start + step * step) % len(WORDS)] for step in range(60)),
            score=position / 7 + number,
            links=[f"/{number}/{position}/{link}" for link in range(4)],
        )
        made["paragraphs"].append(paragraph)
        size += len(msgspec.json.encode(paragraph)) + 1
    return made

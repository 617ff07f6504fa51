"""The recorded form of a paused run: its open waits, and the attempts under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taskflow.records import Wait
from taskflow.wire.json import decode_plain, encode_plain

__all__ = ("decode_attempts", "decode_waits", "encode_pause")


def encode_pause(waits: Sequence[Wait], attempts: Mapping[str, int]) -> bytes:
    """The recorded form of a pause.

    ``attempts`` holds the attempt numbers above 1, by call id; the run itself has the id "".
    """
    return encode_plain({"waits": waits, "attempts": attempts})


def decode_waits(payload: bytes | None) -> list[Wait]:
    """The open waits of a paused run."""
    if payload is None:
        return []
    return [Wait(**fields) for fields in decode_plain(payload)["waits"]]


def decode_attempts(payload: bytes | None) -> dict[str, int]:
    """The attempts of a paused run that were under way, as `encode_pause` took them."""
    return {} if payload is None else decode_plain(payload)["attempts"]

"""`identify`: the identity of a call, taken when the call is made.

It is made of the id of the call around it, the name and version of the task, the arguments or the
key that stands for them, and the occurrence among equal calls. Its form is decided by
`taskflow.wire.identity`, and the occurrence by `taskflow.runs.occurrences`.
"""

from __future__ import annotations

from functools import partial
from hashlib import blake2b
from typing import Any, TypeAlias

from taskflow.calls.definitions import Definition
from taskflow.runs.frame import Frame
from taskflow.runs.occurrences import Occurrences
from taskflow.runs.run import Run
from taskflow.wire.digests import DIGEST_SIZE
from taskflow.wire.identity import canonical_arguments, key_json, outer_types

__all__ = ("Identity", "identify")


# Of one call: its id, its digest, what tells it from other calls of its task, its arguments as
# canonical JSON (None where a key stands for them), and the digest of the first equal call if there
# was one before. A plain tuple: a class takes 0.3 µs more, of the 5 that a replayed call takes.
Identity: TypeAlias = tuple[str, bytes, bytes, bytes | None, bytes | None]


def identify(
    definition: Definition[..., Any, Any],
    frame: Frame[Run],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    canonical: bytes | None = None,
) -> Identity:
    """The identity of the next call with these arguments in ``frame``.

    Raises TaskNameConflict, SerializationError for arguments without a canonical form, and
    TypeError for those that the function does not take.
    """
    name = definition.name
    known_by = b""  # in place of `told_by`, in a run that was begun by 0.3
    if frame.run.names.get(name) is not definition.where:
        frame.run.claim_name(name, definition.where)
    if canonical is not None:
        told_by = canonical
    elif definition.key is not None:
        told_by = key_json(definition.key(*args, **kwargs), f"the key of {name}")
    else:
        binder = definition.binder
        canonical, types = canonical_arguments(binder.bind(args, kwargs), name, binder.variadic)
        told_by = canonical + types
        if types and not frame.run.recorded.tells_types_within:
            known_by = canonical + outer_types(types)
    part = frame.digest + definition.part + (known_by or told_by)
    digest = blake2b(part, digest_size=DIGEST_SIZE).digest()
    first = None
    made = frame.made
    if made is None:
        frame.made = Occurrences(digest)
    elif not made.add(digest):
        first = digest
        executing = frame.run.activity.executing
        digest = made.next(name, first, executing, partial(_occurrence_digest, part))
    return f"{name}:{digest.hex()}", digest, told_by, canonical, first


def _occurrence_digest(part: bytes, occurrence: int) -> bytes:
    return blake2b(b"%b\n%d" % (part, occurrence), digest_size=DIGEST_SIZE).digest()

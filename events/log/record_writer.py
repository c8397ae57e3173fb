"""The one place where events become lines of a log."""

from __future__ import annotations

from typing import Generic

import msgspec

from ..codec import E
from ..errors import LogWriteError, SequenceError
from .format import (
    FIRST_CHAIN,
    HEADER_BYTES,
    MAX_BODY_BYTES,
    SECTOR_BYTES,
    TRAILER_BYTES,
    UNWRITTEN_NULS,
    frame,
    next_chain,
)
from .kind import LogKind


class RecordWriter(Generic[E]):
    """Makes the lines of one log, each chained to the one before it.

    ``owner`` is the id that all its events have. ``next_seq`` lines in the first ``end`` bytes are
    written, and ``chain`` is C(next_seq). A line that is made counts only once it is
    ``accept``ed, so a failed write changes nothing.
    """

    def __init__(
        self,
        kind: LogKind[E],
        owner: str,
        *,
        next_seq: int = 0,
        end: int = 0,
        chain: bytes = FIRST_CHAIN,
    ) -> None:
        self._kind = kind
        self.owner = owner
        self.next_seq = next_seq
        self.end = end
        self.chain = chain

    def line(self, event: E) -> bytes:
        """The line of the next event.

        Raises SequenceError for an event that does not follow, LogWriteError for one that is
        larger than a record may be, or has values without a JSON form. That values are of their
        fields' types is not checked: decoding each line again would take a third of an append's
        time.
        """
        if (owner := self._kind.owner_of(event)) != self.owner:
            raise SequenceError(
                f"an event of {self._kind.noun} {owner!r} cannot enter the log of {self.owner!r}"
            )
        if event.seq != self.next_seq:
            raise SequenceError(f"expected sequence number {self.next_seq}, got {event.seq}")
        name = type(event).__name__
        try:
            body = self._kind.codec.encode(event)
        except (ValueError, TypeError, RecursionError, msgspec.MsgspecError) as error:
            raise LogWriteError(f"{name} cannot be recorded: {error}") from error
        body = self._padded(body)
        if len(body) > MAX_BODY_BYTES:
            raise LogWriteError(f"{name} takes {len(body)} bytes, a record holds {MAX_BODY_BYTES}")
        return frame(body, self.chain)

    def accept(self, line: bytes) -> None:
        """Count the line as written; the next one follows it."""
        self.chain = next_chain(self.chain, line[HEADER_BYTES:-TRAILER_BYTES])
        self.end += len(line)
        self.next_seq += 1

    def _padded(self, body: bytes) -> bytes:
        """Add spaces before the last brace, so that no sector holds only a few of the bytes.

        A disk loses whole sectors of what was not synced. A lost one is known by its NUL bytes,
        so a record must have none of a sector, or UNWRITTEN_NULS bytes of it at least.
        """
        into = (self.end + HEADER_BYTES + len(body) + TRAILER_BYTES) % SECTOR_BYTES
        if UNWRITTEN_NULS <= into <= SECTOR_BYTES - UNWRITTEN_NULS or into == 0:
            return body
        lacking = (UNWRITTEN_NULS if into < UNWRITTEN_NULS else SECTOR_BYTES) - into
        return body[:-1] + b" " * lacking + body[-1:]

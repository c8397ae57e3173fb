"""The line format: length, checksums and hash chain around each event.

One record is ``{"h":"<len 8><crc 8><prev 16><hcrc 4>","e":{...}}`` and a newline. ``len`` is
the length in bytes of the value of ``e``; ``crc`` the CRC-32 over the digits of ``len``, the
digits of ``prev`` and the bytes of ``e``; ``prev`` the first 16 digits of the chain value
C(n); ``hcrc`` the CRC-16 (CCITT, start 0) over the 32 digits before it. C(0) is 64 zeros,
C(n) the SHA-256 over the 64 digits of C(n-1) and the bytes of ``e`` of record n-1.
"""

from __future__ import annotations

from binascii import crc_hqx
from hashlib import sha256
from zlib import crc32

PREFIX = b'{"h":"'
MIDDLE = b'","e":'
TRAILER = b"}\n"
DIGITS = 36
HEADER_BYTES = len(PREFIX) + DIGITS + len(MIDDLE)
TRAILER_BYTES = len(TRAILER)
MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_LINE_BYTES = HEADER_BYTES + MAX_BODY_BYTES + TRAILER_BYTES
FIRST_CHAIN = b"0" * 64
UNWRITTEN_NULS = 16
"""So many NUL bytes in a failing record tell an unwritten sector from a flipped bit."""
_HEX_DIGITS = b"0123456789abcdef"
SECTOR_BYTES = 512
"""What a disk writes whole or not at all."""


def next_chain(chain: bytes, body: bytes) -> bytes:
    """C(n + 1), 64 lower-case hex digits, from C(n) and the body of record n."""
    return sha256(chain + body).hexdigest().encode()


def frame(body: bytes, chain: bytes) -> bytes:
    """The whole line of a record whose chain value is ``chain``."""
    length = b"%08x" % len(body)
    prev = chain[:16]
    digits = b"%b%08x%b" % (length, crc32(body, crc32(length + prev)), prev)
    return b'{"h":"%b%04x","e":%b}\n' % (digits, crc_hqx(digits, 0), body)


def body_length(header: bytes) -> int | None:
    """The length that a record's first 48 bytes state, or None where they fail their check."""
    if len(header) < HEADER_BYTES:
        return None
    digits = header[6:38]
    if header[:HEADER_BYTES] != b'{"h":"%b%04x","e":' % (digits, crc_hqx(digits, 0)):
        return None
    if digits.translate(None, _HEX_DIGITS):
        return None
    length = int(digits[:8], 16)
    return length if 0 < length <= MAX_BODY_BYTES else None


def check(line: bytes) -> bytes | None:
    """The body of one whole line that passes every check but the chain's, else None."""
    body, prev = line[HEADER_BYTES:-TRAILER_BYTES], line[22:38]
    is_whole = 0 < len(body) <= MAX_BODY_BYTES and not prev.translate(None, _HEX_DIGITS)
    return body if is_whole and line == frame(body, prev) else None

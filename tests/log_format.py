"""The log's line format once more, written from the contract and not from our code.

Tests that prove the format compare our bytes with these; tests that damage a log build lines
whose checksums and chain are right with them.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CHAIN_START = "0" * 64


def chain_after(chain: str, body: bytes) -> str:
    """C(n + 1) from C(n) and the bytes of ``e`` of record n."""
    return hashlib.sha256(chain.encode("ascii") + body).hexdigest()


def chain_value(bodies: Iterable[bytes]) -> str:
    """C(n) of the record that would follow these n."""
    chain = CHAIN_START
    for body in bodies:
        chain = chain_after(chain, body)
    return chain


def make_line(body: bytes, chain: str) -> bytes:
    """One record with its newline, given C(n)."""
    length, prev = format(len(body), "08x"), chain[:16]
    checksum = format(zlib.crc32(length.encode() + prev.encode() + body), "08x")
    digits = length + checksum + prev
    header = digits + format(binascii.crc_hqx(digits.encode(), 0), "04x")
    return b'{"h":"' + header.encode() + b'","e":' + body + b"}\n"


def make_log(bodies: Iterable[bytes]) -> bytes:
    """A log of these bodies whose every checksum and chain value is right."""
    chain, lines = CHAIN_START, []
    for body in bodies:
        lines.append(make_line(body, chain))
        chain = chain_after(chain, body)
    return b"".join(lines)


def split_lines(data: bytes) -> list[bytes]:
    """The records of a sound log, each with its newline."""
    return data.splitlines(keepends=True)


def body_of(line: bytes) -> bytes:
    """The bytes of ``e`` of a whole line."""
    return line[len(b'{"h":"') + 36 + len(b'","e":') : -len(b"}\n")]


def split_bodies(data: bytes) -> list[bytes]:
    """The bytes of every ``e`` of a sound log."""
    return [body_of(line) for line in split_lines(data)]


def changed(body: bytes, **fields: Any) -> bytes:
    """``body`` with some fields set anew."""
    return json.dumps({**json.loads(body), **fields}, separators=(",", ":")).encode()


def flip(path: Path, offset: int) -> None:
    """Turn over one bit of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)

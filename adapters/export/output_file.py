"""Writes an output file atomically, and checks which files it may replace."""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ...events.log.storage import PART_SUFFIX, Storage, open_regular

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What only a write raises, which names no file."""


def may_replace(path: Path, is_ours: Callable[[BinaryIO], bool]) -> bool:
    """Whether ``path`` may be written: it does not exist, or is a regular file that ``is_ours``.

    A link, a pipe, a device or an unreadable file may not be replaced.
    """
    if path.is_symlink():
        return False
    if not path.exists():
        return True
    try:
        with open_regular(path) as stream:
            return is_ours(stream)
    except OSError:
        return False


@contextmanager
def atomic_output(path: Path) -> Iterator[BinaryIO]:
    """A stream to a temporary file that is renamed to ``path`` at the end of the block.

    If the block raises, ``path`` is not changed. An OSError names ``path``, not the temporary
    file.
    """
    if path.is_dir():
        raise IsADirectoryError(21, "A folder is there", str(path))
    part = path.with_name(f".{secrets.token_hex(8)}{PART_SUFFIX}")
    try:
        with open(part, "xb") as stream:
            yield stream
            stream.flush()
            Storage().sync_file(stream.fileno())
        part.replace(path)
    except OSError as error:
        is_full = error.filename is None and error.errno in _FULL
        if error.filename != str(part) and not is_full:
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error
    finally:
        part.unlink(missing_ok=True)

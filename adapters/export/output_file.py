"""A file that appears under its name whole, in place of an earlier one of its kind and no other."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ...events.log.storage import PART_SUFFIX, open_regular, sync_whole


def may_replace(path: Path, is_ours: Callable[[BinaryIO], bool]) -> bool:
    """Whether nothing is lost at ``path``: nothing is there, or a plain file that ``is_ours``.

    A link, a pipe, a device or a file that cannot be read is somebody else's.
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
def placed(path: Path) -> Iterator[BinaryIO]:
    """A new file that is at ``path`` once this is left without an error, and not before.

    Raises OSError, which names ``path`` and not the temporary file beside it.
    """
    if path.is_dir():
        raise IsADirectoryError(21, "A folder is there", str(path))
    part = path.with_name(f".{secrets.token_hex(8)}{PART_SUFFIX}")
    try:
        with open(part, "xb") as stream:
            yield stream
            stream.flush()
            sync_whole(stream.fileno())
        part.replace(path)
    except OSError as error:
        if error.filename != str(part):
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error
    finally:
        part.unlink(missing_ok=True)

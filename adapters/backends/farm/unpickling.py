"""What Dask may unpickle: the few classes that its messages need, and the one function of tasks.

Dask sends tasks as pickles, and a pickle can name any function to be called. Every pickle that
Dask reads goes through ``distributed.protocol.pickle.loads``, which is replaced here by one that
refuses all other names. It acts on the whole process.
"""

from __future__ import annotations

import io
import logging
import pickle
from collections.abc import Iterable
from typing import Any

from .dask_settings import distributed

SESSIONS = "stagewright"
"""The name under which a worker holds its ``ServerSessions``."""
_logger = logging.getLogger("stagewright.farm")
_ALLOWED = frozenset(
    [
        ("builtins", "bytes"),
        ("builtins", "int"),
        ("collections", "defaultdict"),
        ("collections", "deque"),
        ("dask._expr", "Expr._reconstruct"),
        ("dask._expr", "LLGExpr"),
        ("dask._task_spec", "Alias"),
        ("dask._task_spec", "Task"),
        ("distributed.core", "Status"),
        ("distributed.scheduler", "KilledWorker"),
        ("distributed.scheduler", "WorkerState"),
        (__name__, "make_images"),
    ]
)


class RefusedPickleError(pickle.UnpicklingError):
    """A message names something else than what a farm sends."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            reason = f"a message names {module}.{name}, which a farm never sends"
            _logger.warning("refused: %s", reason)
            raise RefusedPickleError(reason)
        return super().find_class(module, name)


def restrict_unpickling() -> None:
    """Refuse, in this process, every pickle that names something else than a farm sends."""
    distributed.protocol.pickle.loads = _loads


def _loads(data: bytes, *, buffers: Iterable[Any] = ()) -> Any:
    return _Unpickler(io.BytesIO(data), buffers=buffers).load()


def make_images(message: bytes) -> bytes:
    """Make one attempt at a request on the server of this worker; see ``ServerSessions``."""
    answer: bytes = distributed.get_worker().extensions[SESSIONS].make_images(bytes(message))
    return answer

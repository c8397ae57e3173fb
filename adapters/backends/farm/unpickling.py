"""What Dask may unpickle in this process: the few classes that its messages need, and no code.

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

from . import tasks

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
        (tasks.__name__, tasks.make_images.__name__),
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
    from distributed.protocol import pickle as dask_pickle  # noqa: PLC0415 - nothing else loads Dask

    dask_pickle.loads = _loads


def _loads(data: bytes, *, buffers: Iterable[Any] = ()) -> Any:
    return _Unpickler(io.BytesIO(data), buffers=buffers).load()

"""The log of a queue, ``queue.jsonl``."""

from __future__ import annotations

from ..log.shared_events import shared_kind
from .model import QUEUE_EVENT_TYPES, QueueOpened

QUEUE_LOG = shared_kind(
    "queue",
    "queue",
    QueueOpened,
    *QUEUE_EVENT_TYPES[1:],
    advice="`stagewright queue salvage` keeps all other records",
)

"""What controllers and workers of a farm send each other, as MessagePack: data, no code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ....events.model import BackendDescription
from ....statemachine import errors as decision_errors
from ....statemachine.config.schema import ServerTable
from ....statemachine.errors import BackendError
from ....statemachine.ports import GenerateRequest, SourceImage
from ....statemachine.stages.registry import read_config
from ..http import errors as http_errors

CANCEL, COMPARE, PREPARE, RECOVER, RELEASE, STATUS = (
    f"stagewright_{name}"
    for name in ("cancel", "compare", "prepare", "recover", "release", "status")
)
"""What a controller asks a worker directly."""
FARM = "stagewright_farm"
"""What a controller asks the scheduler."""
STEPS = "stagewright-steps"
"""The topic of Dask on which workers announce sampling steps."""
ANNOUNCEMENT = "stagewright"
"""The key under which a worker's registration holds a ``WorkerFacts``."""


class WorkerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says of itself when it joins."""

    version: str
    server: str


class SchedulerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How a scheduler is set."""

    version: str
    allowed_failures: int
    steals: bool


class Preparation(msgspec.Struct, frozen=True, kw_only=True):
    """A run for which a worker prepares its server; see ``PreparableBackend.prepare``.

    ``session`` names the run within the farm; its requests name it too. ``like`` is the first
    server of the run, with whose options and files the others must agree.
    """

    session: str
    plan: Mapping[str, Any]
    settings: ServerTable
    preflight: bool
    recorded: BackendDescription | None = None
    like: BackendDescription | None = None
    unsettled: Mapping[str, str] = {}
    prompts: tuple[str, ...] = ()


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """The prepared server, or why it cannot be used for the run, which ``may_pass``."""

    description: BackendDescription | None = None
    refusal: str = ""
    may_pass: bool = False


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's server. ``call_id`` is the request that it works on; without a ``problem``, ""."""

    server: str | None = None
    product: str | None = None
    version: str | None = None
    loaded: Mapping[str, tuple[str, ...]] = {}
    problem: str = ""
    call_id: str | None = None


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """Progress of a request: the arguments of ``OnStep``."""

    call_id: str
    step: int
    steps: int
    fraction: float | None = None
    eta_s: float | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The images of a request."""

    images: tuple[bytes, ...]
    endpoint: str
    info: Mapping[str, Any]


class Failure(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A request that gave no image: a BackendError, with its attributes."""

    kind: str
    message: str
    attributes: Mapping[str, Any]

    @classmethod
    def of(cls, error: BackendError) -> Failure:
        """The failure that tells another process of an error."""
        return cls(
            kind=type(error).__name__,
            message=str(error),
            attributes={name: getattr(error, name) for name in _ATTRIBUTES},
        )

    def error(self, where: str) -> BackendError:
        """The error, of its own class where that is known here; the message begins ``where``."""
        kind = _ERRORS.get(self.kind, BackendError)
        return kind(f"{where}: {self.message}", **self.attributes)


_ATTRIBUTES = ("transient", "endpoint", "detail", "interrupted", "settled", "retry_after_s")
_ERRORS: Mapping[str, type[BackendError]] = {
    name: found
    for module in (decision_errors, http_errors)
    for name, found in vars(module).items()
    if isinstance(found, type) and issubclass(found, BackendError)
}


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The first ``info`` that a stage was answered with, and that of a worker's first answer."""

    session: str
    stage_type: str
    config: Mapping[str, Any]
    first: Mapping[str, Any]
    info: Mapping[str, Any]


class _Task(msgspec.Struct, frozen=True, kw_only=True):
    """A request of a session; ``request`` has the fields of GenerateRequest."""

    session: str
    request: Mapping[str, Any]


encode = msgspec.msgpack.encode
decode_comparison = msgspec.msgpack.Decoder(Comparison).decode
decode_outcome = msgspec.msgpack.Decoder(Answer | Failure).decode
decode_preparation = msgspec.msgpack.Decoder(Preparation).decode
decode_prepared = msgspec.msgpack.Decoder(Prepared).decode
decode_recovery = msgspec.msgpack.Decoder(Failure | None).decode
decode_status = msgspec.msgpack.Decoder(WorkerStatus).decode
_decode_task = msgspec.msgpack.Decoder(_Task).decode


def encode_task(session: str, request: GenerateRequest) -> bytes:
    """A request as it is sent to a worker, with its images."""
    fields = {name: getattr(request, name) for name in request.__struct_fields__}
    return encode(_Task(session=session, request=fields))


def decode_task(data: bytes) -> tuple[str, GenerateRequest]:
    """The session and the request of a task.

    Raises ConfigurationError for a stage that is not installed here, msgspec.ValidationError.
    """
    task = _decode_task(data)
    fields = dict(task.request)
    first = fields.pop("first_answer")
    images: dict[str, Any] = {
        "inputs": msgspec.convert(fields.pop("inputs"), tuple[SourceImage, ...]),
        "mask": msgspec.convert(fields.pop("mask"), SourceImage | None),
        "script_images": msgspec.convert(fields.pop("script_images"), dict[str, SourceImage]),
    }
    config = read_config(fields["stage_type"], fields.pop("config"))
    return task.session, GenerateRequest(
        config=config,
        first_answer=None if first is None else (first[0], first[1]),
        unanswered=tuple(fields.pop("unanswered")),
        **images,
        **fields,
    )

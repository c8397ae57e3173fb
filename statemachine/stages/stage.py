"""The base of every stage: what the plan, the runner and the displays need to know of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Self

import msgspec

from ..errors import FieldError, InvalidStagePlanError, field_error
from .sizes import Dimensions, NextSize

_UNSAMPLED_WEIGHT = 10
"""An image of a stage without sampling steps counts as much as so many of them."""


class Table(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """A table that a user may switch off; its presence switches it on.

    A stage, and every table within it, is one.
    """

    required: ClassVar[tuple[str, ...]] = ()
    """Fields that an enabled table must have, set or inherited."""
    exclusive: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Pairs of fields of which a table may have one: where it sets one, it inherits no other."""

    enabled: bool = True


class StageConfig(Table, frozen=True, kw_only=True):
    """The table of a stage in a configuration, and the stage in a plan; a subclass for each.

    In a plan it holds what it inherits, and nothing that is switched off. None means neither
    set nor inherited, and is not sent. Sizes are in pixels. ``farm_hint`` is the resource that a
    worker of a farm must have for it; a plan has it beside the table.
    """

    farm_hint: str | None = None

    stage_type: ClassVar[str]
    """The name of its table, and of the stage in plans and logs."""
    takes_prompt: ClassVar[bool] = False
    """Whether it makes images from the prompt alone. Other stages change images."""
    generates: ClassVar[bool] = False
    """Whether later stages inherit its settings, and may make several images from one input."""
    needs_base: ClassVar[bool] = False
    """Whether a stage that ``generates`` must come before it."""
    inherited: ClassVar[tuple[str, ...]] = ()
    """Fields that are inherited where the table does not set them."""
    plan_only: ClassVar[tuple[str, ...]] = ()
    """Fields that are always inherited; the table cannot set them."""
    recorded: ClassVar[tuple[str, ...]] = ()
    """Fields that StageStart records."""
    unchanged_because: ClassVar[str] = "nothing was found to change"
    """What it may mean that an image came back as it was sent."""
    pass_names: ClassVar[tuple[str, ...]] = ()
    """Of a stage whose passes run over every image in equal shares of a request: their names."""

    @property
    def seed(self) -> int | None:
        """The seed of the first image; None: the run's own. A field, where a stage has one."""
        return None

    @property
    def batch_size(self) -> int | None:
        """How many images a request makes, if not one. A field, where a stage has one."""
        return None

    @property
    def mask(self) -> str | None:
        """The path of a mask. A field, where a stage has one."""
        return None

    @property
    def alwayson_scripts(self) -> Mapping[str, Any] | None:
        """Arguments of the server's extensions, by script. A field, where a stage has one."""
        return None

    @classmethod
    def inherits(cls, name: str) -> bool:
        """Whether it takes a setting from what is before it, if it does not set it itself."""
        return name in cls.inherited or name in cls.plan_only

    def resolve(self, inherited: Mapping[str, Any], model_size: Dimensions | None) -> Self:
        """The table as the plan holds it: checked, with what it inherits.

        ``inherited`` are the settings of the stages before that ``generate``, and the top-level
        prompts and seed. ``model_size`` is the size at which the first of these stages works,
        None if it is not known or not the same for all images. Raises InvalidStagePlanError
        with all that ``find_errors`` finds.
        """
        del model_size
        taken = {name: inherited.get(name) for name in (*self._open_fields(), *self.plan_only)}
        config = msgspec.structs.replace(self, **taken)
        if errors := list(config.find_errors()):
            raise InvalidStagePlanError(errors=errors)
        return config

    def find_errors(self) -> Iterator[FieldError]:
        """What is wrong with the table once it has what it inherits.

        That is what it, and the tables in it, lack, and which fields exclude each other.
        """
        for key, table in list_tables(self, self.stage_type):
            yield from missing_values(table, key, *getattr(table, "required", ()))
            for one, other in getattr(table, "exclusive", ()):
                if getattr(table, one) is not None and getattr(table, other) is not None:
                    reason = f"and {key}.{other} exclude each other: set one of them"
                    yield field_error(f"{key}.{one}", reason)

    def _open_fields(self) -> list[str]:
        """The fields that the table inherits: neither set, nor excluded by one that is set."""
        excluded = {
            other
            for pair in self.exclusive
            for name, other in (pair, pair[::-1])
            if getattr(self, name) is not None
        }
        fields = (name for name in self.inherited if name not in excluded)
        return [name for name in fields if getattr(self, name) is None]

    def warnings(self, given: Self) -> Iterable[str]:
        """What a person should know of the resolved stage; ``given`` is the table as written."""
        del given
        return ()

    def sampling_passes(self) -> tuple[int, ...]:
        """The sampling steps of each pass over an image, or one find in it; 0 if not known.

        A backend reports steps while it works on a stage that has any.
        """
        return ()

    def size_after(self, size: Dimensions | None) -> NextSize:
        """The size of an image that had ``size`` before the stage, None if that is not known."""
        return NextSize(size)

    def model_size(self, size: Dimensions | None) -> Dimensions | None:
        """The size at which its model works on an image that had ``size`` before."""
        return self.size_after(size).size

    def weight(self) -> int:
        """What an image counts for in a run's progress, in sampling steps; 0 if not known."""
        passes = self.sampling_passes()
        if not passes:
            return _UNSAMPLED_WEIGHT
        return sum(passes) if all(passes) else 0

    def checkpoints(self) -> Iterable[str | None]:
        """The checkpoints that each of its requests loads, in order.

        None is the one that is loaded before. A stage without a model loads none.
        """
        return ()

    def metadata(self) -> Mapping[str, Any]:
        """What StageStart records of the stage, by name; what is None is left out."""
        return {name: getattr(self, name) for name in self.recorded}


def list_tables(table: msgspec.Struct, key: str) -> Iterator[tuple[str, msgspec.Struct]]:
    """The table at ``key`` and those within it, with their keys."""
    yield key, table
    for name in table.__struct_fields__:
        value = getattr(table, name)
        if isinstance(value, msgspec.Struct):
            yield from list_tables(value, f"{key}.{name}")
        for place, part in enumerate(value if isinstance(value, tuple) else ()):
            if isinstance(part, msgspec.Struct):
                yield from list_tables(part, f"{key}.{name}.{place}")


def missing_values(table: msgspec.Struct, key: str, *names: str) -> Iterator[FieldError]:
    """An error for each of these fields that is missing, or a blank name."""
    for name in names:
        value = getattr(table, name)
        is_blank = isinstance(value, str) and not value.strip() and name != "prompt"
        if value is None or value == () or is_blank:
            where = name if name == "prompt" else f"{key}.{name}"
            yield field_error(where, f"is missing; an enabled {key.partition('.')[0]} needs it")


def size_errors(
    table: msgspec.Struct, key: str, factor: str, width: str, height: str
) -> Iterator[FieldError]:
    """An error unless there is either a factor or a target size, under these names."""
    stated = getattr(table, factor)
    sized = getattr(table, width) is not None or getattr(table, height) is not None
    if stated is None and not sized:
        yield field_error(f"{key}.{factor}", f"is missing: set {factor}, or {width} and {height}")
    elif stated is not None and sized:
        reason = "and a target size exclude each other"
        yield field_error(f"{key}.{factor}", reason, stated)

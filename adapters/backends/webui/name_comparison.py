"""Compares the names that a plan uses with the lists of its server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ....statemachine.stages import StageConfig
from ..report import NameCheck, Verdict
from .features import SD_NEXT, TXT2IMG, ServerFeatures
from .lists import ServerLists, entry_of
from .names import KINDS, Entry, NameKind, NameList, NameUse, is_of_a_part, named_in_text
from .spellings import AUTOMATIC, loosely

_SCHEDULES = ("Karras", "Exponential", "Polyexponential", "SGM Uniform")
"""Schedules that sampler names ended in before 1.9, for servers without a list of schedulers."""
_IN_PROMPTS = frozenset([NameKind.LORA, NameKind.EMBEDDING])
"""Names that are sent within a prompt, which stays as it was written."""


class NameComparison:
    """Compares names with a server's lists; ``detailing`` says whether it has ADetailer.

    ``spellings`` are the server's own of names that were found in another case, with other
    separators, or without suffix.
    """

    def __init__(self, lists: ServerLists, features: ServerFeatures, *, detailing: bool) -> None:
        self._lists = lists
        self._features = features
        self._detailing = detailing
        self._one_name = not features.takes(TXT2IMG, "scheduler")
        self.spellings: dict[tuple[NameKind, str], str] = {}

    def names_in_styles(self, config: StageConfig) -> Iterator[NameUse]:
        """The LoRAs and embeddings in the prompts of a stage's styles."""
        styles = getattr(config, "styles", None)
        for prompt in self._lists.prompts_of_styles(styles) if styles else ():
            yield from named_in_text(prompt, f"{config.stage_type}.styles: prompt")

    def check(self, use: NameUse) -> NameCheck:
        """Whether the server has the name."""
        joint = self._joint_name(use)
        if joint is not None:
            return NameCheck(use.kind, use.key, use.name, Verdict.MISSING, (joint.name,))
        found, known = self._look_up(use)
        if found is None and known is not None:
            route = self._features.vae_route if use.kind is NameKind.VAE else None
            if self._lists.refresh(use.kind, route):  # A file may just have been copied there.
                found, known = self._look_up(use)
        if found is not None:
            if use.name not in found.forms:
                self.spellings[use.kind, use.name] = found.name
            return NameCheck(use.kind, use.key, use.name, Verdict.FOUND)
        if known is None:
            return NameCheck(use.kind, use.key, use.name, Verdict.NOT_CHECKED)
        nearest = self._lists.nearest(use.name, known)
        return NameCheck(use.kind, use.key, use.name, Verdict.MISSING, nearest)

    def _joint_name(self, use: NameUse) -> Entry | None:
        """The one name of a sampler and its scheduler, where the server has no other for the pair.

        Such a server takes no scheduler; the name is sent for the pair of a stage, and has to be
        written in the plan where a part of a stage has its own. It is also one of a server that
        hides its schema, which would be sent the pair.
        """
        if use.kind is not NameKind.SAMPLER or use.partner is None:
            return None
        is_known = TXT2IMG in self._features.fields
        if is_known and not (self._one_name and is_of_a_part(use.key)):
            return None
        if use.partner.casefold() == AUTOMATIC:
            return None
        return entry_of(self._samplers() or (), f"{use.name} {use.partner}")

    def _look_up(self, use: NameUse) -> tuple[Entry | None, NameList | None]:
        """The entry with the name, and the list it should be in (None if not offered)."""
        match use.kind:
            case NameKind.SAMPLER:
                known = self._samplers()
                return (None if known is None else self._sampler(use, known)), known
            case NameKind.SCHEDULER if self._one_name and is_of_a_part(use.key):
                return None, ()  # It takes none there.
            case NameKind.SCHEDULER if self._one_name and use.partner:
                known = self._schedules_of(use.partner)
                return entry_of(known or (), use.name), known
            case NameKind.HIRES_UPSCALER:
                return self._hires_upscaler(use.name)
            case NameKind.VAE:
                return self._in_list(use.kind, use.name, route=self._features.vae_route)
            case NameKind.DETECTOR if not self._detailing:
                return None, None
            case _:
                return self._in_list(use.kind, use.name)

    def _in_list(
        self, kind: NameKind, name: str, route: str | None = None
    ) -> tuple[Entry | None, NameList | None]:
        known = self._lists.names(kind, route)
        if known is None:
            return None, None
        found = entry_of((*known, *_entries(KINDS[kind].everywhere)), name)
        if found is not None and kind in _IN_PROMPTS and name not in found.forms:
            found = None
        return found, known

    def _samplers(self) -> NameList | None:
        return self._lists.names(NameKind.SAMPLER)

    def _sampler(self, use: NameUse, known: NameList) -> Entry | None:
        found = entry_of(known, use.name)
        if found is not None or use.exact:
            return found
        if self._one_name:
            asked = loosely(use.partner or "")
            heads = (head for head, tail in _parts(known) if loosely(tail) == asked)
            return entry_of(_entries(heads), use.name)
        return self._sampler_with_scheduler(use.name, known)

    def _sampler_with_scheduler(self, name: str, samplers: NameList) -> Entry | None:
        """A name that joins sampler and scheduler, as before 1.9: ``DPM++ 2M Karras``."""
        first = [one for one in samplers if loosely(name).startswith(loosely(one.name))]
        if not first:
            return None
        schedulers = self._lists.names(NameKind.SCHEDULER) or tuple(_entries(_SCHEDULES))
        joint = (
            Entry(f"{one.name} {other.name}", frozenset(f"{one.name} {it}" for it in other.forms))
            for one in first
            for other in schedulers
        )
        return entry_of(tuple(joint), name)

    def _schedules_of(self, sampler: str) -> NameList | None:
        """The schedulers that a server with joint names has for a sampler."""
        samplers = self._samplers()
        if samplers is None or self._features.product == SD_NEXT:  # SD.Next has no schedulers.
            return None
        asked = loosely(sampler)
        return _entries(tail for head, tail in _parts(samplers) if loosely(head) == asked)

    def _hires_upscaler(self, name: str) -> tuple[Entry | None, NameList | None]:
        """Look up a latent mode or an upscaler, in the more likely list first."""
        kinds = [NameKind.UPSCALER, NameKind.HIRES_UPSCALER]
        if loosely(name).startswith("latent"):
            kinds.reverse()
        every: list[Entry] = []
        unknown = False
        for kind in kinds:
            found, known = self._in_list(kind, name)
            if found is not None:
                return found, known
            unknown = unknown or known is None
            every += known or ()
        return None, None if unknown else tuple(every)


def _entries(names: Iterable[str]) -> NameList:
    """Entries that have one name each."""
    return tuple(Entry(name, frozenset([name])) for name in dict.fromkeys(names))


def _parts(samplers: NameList) -> Iterator[tuple[str, str]]:
    """Each way to divide a name into two at a space: a sampler and its scheduler."""
    for one in samplers:
        words = one.name.split(" ")
        for place in range(1, len(words)):
            yield " ".join(words[:place]), " ".join(words[place:])

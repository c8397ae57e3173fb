"""Prompt templates: what they are made of, how a text is drawn from one, and all its texts.

Draws use SHA-256 alone: the same seed gives the same text on any machine and any Python.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple, Protocol

from .wildcards import WildcardFolder

MAX_COMBINATIONS = 1_000_000
"""A run has no more images."""
_MOST_PARTS = 100_000
"""Parts that one text is drawn from: nested wildcards could double it at each level."""
_DEEPEST = 64
_FEW = 12
"""12 of 12 have more orders than ``MAX_COMBINATIONS``."""
_WRAP_MARK = re.compile(r"[\u1801\u2026\u22ee-\u22f1\ufe19]+|\.{3,}")


_MARKS = re.compile(r"\{[^{}]*\||\$\{|\{[^{}]*\$\$|__[^\s_][^\n]*?__")
_ANGLED = re.compile(r"<[^<>]*>")


class TemplateError(ValueError):
    """A template cannot be used; the message says why."""


def looks_like_template(text: str) -> bool:
    """Whether a text has the marks of a template outside ``<...>``."""
    return _MARKS.search(_ANGLED.sub("", text)) is not None


class Parts(NamedTuple):
    """Parts one after the other."""

    parts: tuple[Template, ...]


class Choice(NamedTuple):
    """``low`` to ``high`` of the options, in any order, with ``separator`` between them."""

    options: tuple[tuple[float, Template], ...]
    low: int = 1
    high: int = 1
    separator: str = ","


class Wildcard(NamedTuple):
    """A line of a wildcard file; ``variables`` hold within it."""

    name: Template
    variables: tuple[tuple[str, Template], ...] = ()


class Assignment(NamedTuple):
    """A variable for the parts that follow; ``at_once``: drawn once, not at each use."""

    name: str
    value: Template
    at_once: bool
    keeps_existing: bool


class Variable(NamedTuple):
    """The value of a variable."""

    name: str
    default: Template | None


class Wrapping(NamedTuple):
    """A text in place of the dots of another one."""

    wrapper: Template
    inner: Template


class Values(NamedTuple):
    """The lines of a wildcard and their weights, None if these are equal."""

    weights: tuple[float, ...] | None
    templates: tuple[Template, ...]


Template = str | Parts | Choice | Wildcard | Assignment | Variable | Wrapping
Variables = Mapping[str, Template]


ParseTemplate = Callable[[str], Template]
"""Reads the syntax of templates, and raises TemplateError; only it knows the library for that."""


class Chooser(Protocol):
    """Chooses among options."""

    def choose(self, count: int, weights: Sequence[float] | None = None) -> int:
        """The index of one of ``count`` options, whose weights are equal if there are none."""
        ...


class SeededChooser:
    """Chooses as a seed and a label say."""

    def __init__(self, seed: int, label: str) -> None:
        self._key = f"{label}:{seed}"
        self._count = 0

    def choose(self, count: int, weights: Sequence[float] | None = None) -> int:
        self._count += 1
        digest = sha256(f"{self._key}:{self._count}".encode()).digest()
        number = int.from_bytes(digest[:8])
        total = math.fsum(weights or ())
        if weights is None or total <= 0:
            return number * count >> 64
        left = number / 2**64 * total
        for index, weight in enumerate(weights):
            left -= weight
            if left < 0:
                return index
        return max(index for index, weight in enumerate(weights) if weight > 0)


class EveryChooser:
    """Chooses the first options at first; after each ``advance``, the next combination."""

    def __init__(self) -> None:
        self._path: list[list[int]] = []
        self._place = 0

    def choose(self, count: int, weights: Sequence[float] | None = None) -> int:
        del weights
        if self._place == len(self._path):
            self._path.append([0, count])
        self._place += 1
        return self._path[self._place - 1][0]

    def advance(self) -> bool:
        """Whether there is another combination."""
        self._place = 0
        while self._path and self._path[-1][0] + 1 == self._path[-1][1]:
            self._path.pop()
        if self._path:
            self._path[-1][0] += 1
        return bool(self._path)


class Templates:
    """Templates, and the wildcards that they name; each is read once."""

    def __init__(self, wildcards: WildcardFolder, parse: ParseTemplate) -> None:
        self.wildcards = wildcards
        self._parse = parse
        self._parsed: dict[str, Template] = {}
        self._values: dict[str, Values] = {}
        self._checked: set[str] = set()
        self._counts: dict[str, int] = {}

    def check(self, text: str) -> None:
        """Raise TemplateError for anything wrong with a template or a wildcard that it names."""
        self._check(self.parse(text), ())
        self.draw(text, SeededChooser(0, "check"))

    def draw(self, text: str, chooser: Chooser) -> str:
        """A text of the template. Raises TemplateError."""
        return _Drawing(self, chooser).draw(self.parse(text), {})

    def count_at_least(self, *texts: str) -> int:
        """A number that the combinations of these templates reach, in a moment."""
        return math.prod(self._count(self.parse(text)) for text in texts)

    def parse(self, text: str) -> Template:
        """Raises TemplateError."""
        if "{" not in text and "__" not in text:
            return text
        if text not in self._parsed:
            self._parsed[text] = self._parse(text)
        return self._parsed[text]

    def values(self, name: str) -> Values:
        """The lines of a wildcard, of which there is at least one. Raises TemplateError."""
        if name not in self._values:
            try:
                lines = self.wildcards.values(name)
            except ValueError as error:
                raise TemplateError(f"the wildcard __{name}__ {error}") from error
            try:
                templates = tuple(self.parse(line) for _, line in lines)
            except TemplateError as error:
                raise TemplateError(f"in the wildcard __{name}__, {error}") from error
            self._values[name] = Values(_weights([one for one, _ in lines]), templates)
        return self._values[name]

    def _check(self, template: Template, within: tuple[str, ...], depth: int = 0) -> None:
        if depth > _DEEPEST:
            raise TemplateError(f"it is nested more than {_DEEPEST} deep")
        for part in _parts_of(template):
            self._check(part, within, depth + 1)
        if isinstance(template, Wildcard) and isinstance(template.name, str):
            name = template.name
            if name in within:
                loop = " -> ".join(f"__{one}__" for one in [*within[within.index(name) :], name])
                raise TemplateError(f"the wildcard __{name}__ names itself: {loop}")
            if name not in self._checked:
                for value in self.values(name).templates:
                    self._check(value, (*within, name), depth + 1)
                self._checked.add(name)

    def _count(self, template: Template) -> int:
        match template:
            case Choice(options, low, high):
                if low == high == 1:
                    return sum(self._count(value) for _, value in options)
                most = len(options)
                least, largest = min(low, most), min(high, most, low + _FEW)
                sizes = range(least, largest + 1)
                return sum(math.perm(most, min(size, _FEW)) for size in sizes)
            case Wildcard(str(name)):
                if name not in self._counts:
                    self._counts[name] = sum(map(self._count, self.values(name).templates))
                return self._counts[name]
            case Parts(parts):
                return math.prod(map(self._count, parts))
            case Assignment(_, value, at_once=True):
                return self._count(value)
        return 1


def _weights(weights: Sequence[float]) -> tuple[float, ...] | None:
    return None if len(set(weights)) == 1 else tuple(weights)


def _parts_of(template: Template) -> Iterator[Template]:
    match template:
        case Parts(parts):
            yield from parts
        case Choice(options):
            yield from (value for _, value in options)
        case Wildcard(name, variables):
            yield name
            yield from (value for _, value in variables)
        case Assignment(_, value):
            yield value
        case Variable(_, default) if default is not None:
            yield default
        case Wrapping(wrapper, inner):
            yield wrapper
            yield inner


class _Drawing:
    """One text being drawn."""

    def __init__(self, templates: Templates, chooser: Chooser) -> None:
        self._templates = templates
        self._chooser = chooser
        self._parts = 0
        self._depth = 0

    def draw(self, template: Template, variables: Variables) -> str:
        self._parts += 1
        self._depth += 1
        if self._depth > _DEEPEST:
            raise TemplateError(f"it is nested more than {_DEEPEST} deep")
        if self._parts > _MOST_PARTS:
            raise TemplateError(f"one text of it has more than {_MOST_PARTS} parts")
        text = self._drawn(template, variables)
        self._depth -= 1
        return text

    def _drawn(self, template: Template, variables: Variables) -> str:
        match template:
            case str():
                return template
            case Parts(parts):
                return "".join(self._sequence(parts, variables))
            case Choice():
                return self._choice(template, variables)
            case Wildcard(name, own):
                weights, lines = self._templates.values(self.draw(name, variables).strip())
                index = self._chooser.choose(len(lines), weights)
                return self.draw(lines[index], {**variables, **dict(own)})
            case Variable(name, default):
                value = variables.get(name, default)
                if value is None:
                    raise TemplateError(f"the variable ${{{name}}} is not set")
                return self.draw(value, variables)
            case Wrapping(wrapper, inner):
                before, *after = _WRAP_MARK.split(self.draw(wrapper, variables), maxsplit=1)
                return f"{before}{self.draw(inner, variables)}{''.join(after)}"
        raise TemplateError("it sets a variable where it cannot")

    def _sequence(self, parts: Sequence[Template], variables: Variables) -> Iterator[str]:
        for part in parts:
            if not isinstance(part, Assignment):
                yield self.draw(part, variables)
            elif not (part.keeps_existing and part.name in variables):
                value = self.draw(part.value, variables) if part.at_once else part.value
                variables = {**variables, part.name: value}

    def _choice(self, choice: Choice, variables: Variables) -> str:
        weights, left = [one for one, _ in choice.options], [one for _, one in choice.options]
        if len(left) == 1 and isinstance(wildcard := left[0], Wildcard):
            lines = self._templates.values(self.draw(wildcard.name, variables).strip())
            left = list(lines.templates)
            weights = list(lines.weights or [1.0] * len(left))
            variables = {**variables, **dict(wildcard.variables)}
        low, high = min(choice.low, len(left)), min(choice.high, len(left))
        count = low if low == high else low + self._chooser.choose(high - low + 1)
        chosen = []
        for _ in range(count):
            index = self._chooser.choose(len(left), _weights(weights))
            del weights[index]
            chosen.append(left.pop(index))
        return choice.separator.join(self.draw(one, variables) for one in chosen)

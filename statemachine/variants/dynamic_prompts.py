"""The syntax of templates, as the library ``dynamicprompts`` parses it.

Only its parser is used. Its own draws leave missing wildcards as text and end a loop in
RecursionError, and it takes ``#``, ``//``, ``%``, ``$`` and tabs for syntax where they are text.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from functools import lru_cache

from dynamicprompts import commands
from dynamicprompts.commands.variable_commands import (
    VariableAccessCommand,
    VariableAssignmentCommand,
)
from dynamicprompts.enums import SamplingMethod
from dynamicprompts.parser.config import default_parser_config
from dynamicprompts.parser.parse import get_cached_parser, parse
from pyparsing import ParseBaseException

from .templates import (
    Assignment,
    Choice,
    Parts,
    Template,
    TemplateError,
    Variable,
    Wildcard,
    Wrapping,
)

with warnings.catch_warnings():
    # It makes its parser once, by names that pyparsing gives up.
    warnings.simplefilter("ignore", DeprecationWarning)
    get_cached_parser(default_parser_config)

_DEEPEST = 16
"""The parser takes twice as long for each level."""
_FIRST = 0xF0000
_PLAIN = re.compile(
    rf"<[^<>]*>|//|/\*|[#\t{chr(_FIRST)}-{chr(_FIRST + 0xFFFD)}]|%(?!\{{)|(?<!\$)\$(?![\${{])"
)
"""Text that is no template, and what the parser would take for more than text."""
_MARKS = re.compile(r"__|[$%]?\{|\}")
_TEXTS = re.compile(f"[{chr(_FIRST)}-{chr(_FIRST + 0xFFFD)}]")


def parse_template(text: str) -> Template:
    """Raises TemplateError."""
    kept: list[str] = []

    def keep(found: re.Match[str]) -> str:
        if found[0] not in kept:
            kept.append(found[0])
        return chr(_FIRST + kept.index(found[0]))

    protected = _PLAIN.sub(keep, text)
    if "{" not in protected and "__" not in protected:
        return text
    if _depth(protected) > _DEEPEST:
        raise TemplateError(f"it is nested more than {_DEEPEST} deep")
    reader = _Reader(kept)
    return Parts(tuple(map(reader.parse, _split(protected))))


def _split(text: str) -> Iterator[str]:
    """The texts, choices and wildcards at the top of a template: many prompts share them.

    The parser takes 2 ms for each, and rows of prompts are many.
    """
    begin = depth = 0
    is_open = False
    for found in _MARKS.finditer(text):
        mark, at_top = found[0], not depth and not is_open
        if at_top and mark != "}":
            yield text[begin : found.start()]
            begin = found.start()
        if mark == "__":
            is_open = is_open != (depth == 0)
        else:
            depth = max(0, depth + (-1 if mark == "}" else 1))
        if not at_top and not depth and not is_open:
            yield text[begin : found.end()]
            begin = found.end()
    yield text[begin:]


@lru_cache(maxsize=10_000)
def _parse(text: str) -> commands.Command:
    return parse(text)


def _depth(text: str) -> int:
    deepest = depth = 0
    for one in re.findall(r"[{}]", text):
        depth = max(0, depth + (1 if one == "{" else -1))
        deepest = max(deepest, depth)
    return deepest


class _Reader:
    """Reads the library's commands, with the texts that were kept from its parser."""

    def __init__(self, kept: list[str]) -> None:
        self._kept = kept

    def _text(self, text: str) -> str:
        return _TEXTS.sub(lambda found: self._kept[ord(found[0]) - _FIRST], text)

    def parse(self, text: str) -> Template:
        """Raises TemplateError."""
        if "{" not in text and "__" not in text:
            return self._text(text)
        try:
            return self.read(_parse(text))
        except ParseBaseException as error:
            place = self._text(text[error.loc :])
            raise TemplateError(f"it cannot be read from {place[:40]!r} on") from error
        except RecursionError as error:
            raise TemplateError("it is nested too deep") from error

    def read(self, command: commands.Command | str) -> Template:
        if isinstance(command, str):
            return self._text(command).strip()
        if command.sampling_method not in (None, SamplingMethod.RANDOM):
            raise TemplateError("it has a sampler ! or @, which is not supported: leave it out")
        match command:
            case commands.LiteralCommand():
                return self._text(command.literal)
            case commands.SequenceCommand():
                return Parts(tuple(map(self.read, command.tokens)))
            case commands.VariantCommand():
                options = tuple((one.weight, self.read(one.value)) for one in command.variants)
                separator = self._text(command.separator)
                return Choice(options, command.min_bound, command.max_bound, separator)
            case commands.WildcardCommand():
                variables = ((key, self.read(value)) for key, value in command.variables.items())
                return Wildcard(self.read(command.wildcard), tuple(variables))
            case VariableAssignmentCommand():
                value = self.read(command.value)
                return Assignment(command.name, value, command.immediate, not command.overwrite)
            case VariableAccessCommand():
                default = None if command.default is None else self.read(command.default)
                return Variable(command.name, default)
            case commands.WrapCommand():
                return Wrapping(self.read(command.wrapper), self.read(command.inner))
        raise TemplateError(f"it has {type(command).__name__}, which is not supported")

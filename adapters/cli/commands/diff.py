"""``diff``: shows the differences between two runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from ...projections.diff import RunComparison, compare_runs
from ...projections.diff.answers import ImageComparison, UsedDifference
from ...projections.diff.comparison import ComparedRun, StageComparison
from ...projections.diff.groups import ComparedGroup, GroupComparison, VariantPair, compare_groups
from ...projections.diff.values import Difference
from ...projections.varied_values import varied_text
from ...text import Range, count_of, ranges_text
from ..completion import complete_run_or_group
from ..options import json_option, runs_option
from ..output import count, duration, first_lines, one_line, print_json, print_line, state_text
from ..run_lookup import find_runs_or_groups
from ..statuses import EXIT_COMPLETED, EXIT_ERROR

_SHOWN = 40
"""How many differences of one section are printed; the rest are counted."""
_LONGEST = 64
_LONGEST_MESSAGE = 500
_LEAD = 16
_NAMED = 4
"""How many differences of a pair of variants are named."""
_MESSAGES = frozenset(["error", "error.message"])
"""Keys of an outcome that hold a sentence, which may be longer than other values."""
_SECTIONS = (
    ("varied values", "varied"),
    ("configuration as given", "configuration"),
    ("resolved plan", "plan"),
    ("input images", "inputs"),
    ("backend and software", "backend"),
    ("outcome", "outcome"),
)


@click.command("diff")
@click.argument("left", metavar="RUN_OR_GROUP", shell_complete=complete_run_or_group)
@click.argument("right", metavar="RUN_OR_GROUP", shell_complete=complete_run_or_group)
@click.option("--exit-code", is_flag=True, help="Exit with status 1 if the runs differ.")
@runs_option
@json_option
def diff_command(left: str, right: str, exit_code: bool, runs: Path, as_json: bool) -> int:
    """Show the differences between two runs or two groups.

    It compares the logs: the configurations, the plans, the settings that were used, the
    outcomes and the images. Durations are shown, but do not count as a difference. Image files
    are opened only where equal requests gave different files, to compare their pixels.

    Of two groups, the variants with equal values are compared, each pair in one line.
    """
    one, other = find_runs_or_groups(runs, [left, right])
    if one.is_group != other.is_group:
        raise click.UsageError("diff compares two runs, or two groups, but not one with the other")
    if one.is_group:
        groups = compare_groups((one.folder, one.runs), (other.folder, other.runs))
        if as_json:
            print_json(groups)
        else:
            for line in _group_lines(groups):
                print_line(line)
        return EXIT_ERROR if exit_code and not groups.same else EXIT_COMPLETED
    found = compare_runs(one.folder, other.folder)
    if as_json:
        print_json(found)
    else:
        for line in _lines(found):
            print_line(line)
    return EXIT_ERROR if exit_code and not found.same else EXIT_COMPLETED


def _lines(found: RunComparison) -> Iterator[str]:
    if found.same:
        stages = count(len(found.stages), "stage")
        images = count(sum(map(_equal, found.stages)), "image")
        yield f"no difference: {found.left.run_id} and {found.right.run_id}, {stages}, {images}"
        return
    yield f"left:  {_named(found.left)}"
    yield f"right: {_named(found.right)}"
    for title, name in _SECTIONS:
        yield from _section(title, [_line(one) for one in getattr(found, name)])
        if name == "backend":
            yield from _section("settings used", list(_used(found.stages)))
    yield from _section("images", [line for one in found.stages for line in _images(one)])
    yield from _section(
        "durations (not counted as a difference)",
        [f"{o.what}: {duration(o.left_ms)} -> {duration(o.right_ms)}" for o in found.durations],
    )


def _named(run: ComparedRun) -> str:
    return f"{run.run_id}: {state_text(run.state, run.outcome)}, started on {run.host}"


def _section(title: str, lines: Sequence[str]) -> Iterator[str]:
    if not lines:
        return
    yield ""
    yield title
    for line in first_lines(lines, _SHOWN, "... and {} more (--json has them all)"):
        yield f"  {line}"


def _line(one: Difference) -> str:
    longest = _LONGEST_MESSAGE if one.key in _MESSAGES else _LONGEST
    left, right = _shortened(_text(one.left), _text(one.right), longest)
    return f"{one.key}: {left} -> {right}"


def _text(value: Any) -> str:
    if value is msgspec.UNSET:
        return "(not set)"
    return json.dumps(msgspec.to_builtins(value), ensure_ascii=False)


def _shortened(left: str, right: str, longest: int) -> tuple[str, str]:
    """Both texts; long ones are cut to the part in which they differ."""
    if max(len(left), len(right)) <= longest:
        return left, right
    alike = next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), None)
    begin = max(0, (min(len(left), len(right)) if alike is None else alike) - _LEAD)
    return _cut(left, begin, longest), _cut(right, begin, longest)


def _cut(text: str, begin: int, longest: int) -> str:
    if len(text) <= longest:
        return text
    shown = text[begin : begin + longest]
    return f"{'...' if begin else ''}{shown}{'...' if begin + longest < len(text) else ''}"


def _used(stages: Sequence[StageComparison]) -> Iterator[str]:
    left_out: dict[str, str] = {}
    for stage in stages:
        for one in stage.answers.used:
            yield f"{stage.stage}.{_line(one)} ({_which(one, stage.answers.images)})"
        left_out |= stage.answers.left_out
    for name, why in left_out.items():
        yield f"not compared: {name} ({why})"


def _which(one: UsedDifference, images: ImageComparison) -> str:
    both = count_of(images.equal) + count_of(images.different)
    if count_of(one.images) == both > 1:
        return f"all {both} images"
    return f"{'image' if count_of(one.images) == 1 else 'images'} {_rows(one.images)}"


def _rows(rows: Sequence[Range]) -> str:
    """Image numbers from 1."""
    more = f" and {count_of(rows[_LEAD:])} more" if len(rows) > _LEAD else ""
    return ranges_text(rows[:_LEAD], first_number=1) + more


def _equal(stage: StageComparison) -> int:
    return count_of(stage.answers.images.equal)


def _images(stage: StageComparison) -> Iterator[str]:
    images = stage.answers.images
    parts = [f"{count_of(images.equal)} equal"] if images.equal else []
    for what, rows in (
        ("different", images.different),
        ("only left", images.only_left),
        ("only right", images.only_right),
    ):
        if rows:
            parts.append(f"{count_of(rows)} {what} ({_rows(rows)})")
    yield f"{stage.stage}: {', '.join(parts) or 'none'}"
    for what, rows in (
        ("same request, different image", images.same_request),
        ("same request, same pixels, different file", images.same_pixels),
        ("same request, different file (pixels not compared)", images.not_looked_at),
        ("different request, same image", images.other_request),
    ):
        if rows:
            yield f"  {what}: {_rows(rows)}"


def _group_lines(found: GroupComparison) -> Iterator[str]:
    """A line for each pair of variants that differ, and what is in one group only."""
    pairs = count(len(found.pairs), "pair")
    if found.same:
        yield f"no difference: {_named_group(found.left)} and {_named_group(found.right)}, {pairs}"
        return
    yield f"left:  {_named_group(found.left)}"
    yield f"right: {_named_group(found.right)}"
    differing = [_pair_line(pair) for pair in found.pairs if not pair.same]
    if found.pairs:
        title = f"{pairs} of variants with equal values, {len(differing)} with a difference"
        yield from _section(title, differing) if differing else ("", title)
    for title, variants in (("only left", found.only_left), ("only right", found.only_right)):
        yield from _section(
            f"{title}: {count(len(variants), 'variant')}",
            [f"{o.variant_index + 1}  {varied_text(o.values)}: {o.state}" for o in variants],
        )


def _pair_line(pair: VariantPair) -> str:
    numbers = f"{pair.left_index + 1}, {pair.right_index + 1}"
    if pair.error:
        what = f"cannot be compared: {pair.error}"
    else:
        more = len(pair.differences) - _NAMED
        what = ", ".join(map(one_line, pair.differences[:_NAMED]))
        what += f", and {more} more" if more > 0 else ""
    return f"{numbers}  {varied_text(pair.values)}: {what}"


def _named_group(group: ComparedGroup) -> str:
    return f"{one_line(group.group_id)} ({group.state}, {count(group.variants, 'variant')})"

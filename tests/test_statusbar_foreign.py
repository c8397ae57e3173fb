"""Logs travel: whatever one of them says, a bar shows something, and shows it safely."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from .status_lives import STEPS
from .status_stories import Shown, made, planned, replan
from .stories import Story, error


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"stages": "none"},
        {"stages": [{"stage_id": 7}]},
    ],
)
def test_without_a_plan_the_percentage_is_not_known(plan: dict[str, Any]) -> None:
    """Stage and image are shown all the same, and a run that is complete is at 100."""
    story = replan(Story(), plan).move("start").begin("txt2img")
    shown = Shown(made(story, "txt2img", 0))
    assert (shown.now().percentage, shown.now().percent) == (None, "")
    assert shown.now().place == "stage 00-txt2img  image 1 of 2"
    assert shown.now().images_done == 1
    story.move("finish")
    assert shown.now().percentage == 100.0


@pytest.mark.parametrize("steps", [None, 0, -1, True, "20", 2.5, 10**9, 10**400, [20]])
def test_stages_of_unknown_length_all_weigh_the_same(steps: Any) -> None:
    """A foreign log may say anything of them; then images are counted."""
    stages = [
        {"stage_id": "00-txt2img", "stage_type": "txt2img", "config": {"steps": steps}},
        {"stage_id": "01-img2img", "stage_type": "img2img", "config": {"steps": 20}},
    ]
    story = replan(Story("txt2img", "img2img"), {"stages": stages}).move("start")
    shown = Shown(made(story.begin("txt2img"), "txt2img", 0))
    assert shown.now().percentage == 25.0


KEYS = st.sampled_from(
    ["stages", "stage_id", "stage_type", "config", "steps", "hires", "passes", "warnings", "name"]
)
SCALAR: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 0, 3, 10**400, 2.5, float("nan"), "", "x\n", [], {}]
)
ANYTHING = SCALAR | st.lists(SCALAR, max_size=2) | st.dictionaries(KEYS, SCALAR, max_size=3)
STAGE = st.fixed_dictionaries(
    {"stage_id": st.sampled_from(["00-txt2img", "01-img2img"])},
    optional={"stage_type": st.sampled_from(list(STEPS)) | ANYTHING, "config": ANYTHING},
)


@given(
    plan=st.dictionaries(KEYS, ANYTHING | st.lists(STAGE, max_size=3), max_size=4),
    config=st.dictionaries(KEYS, ANYTHING, max_size=3),
    images=st.integers(0, 2),
)
def test_whatever_a_foreign_log_says_something_is_shown(
    plan: dict[str, Any], config: dict[str, Any], images: int
) -> None:
    """No shape of plan or configuration is trusted, nor the numbers of its events."""
    story = replan(Story(images=images), plan, config=config).move("start").begin("txt2img")
    made(story, "txt2img", 0, 1, 2**53 - 1)
    story.ask("txt2img", 2**53 - 1, 2**60)
    story.ask("txt2img", 0, -5)
    story.end("txt2img", "completed", 1e300).end("img2img", "completed", float("nan"))
    story.resume("recover")
    story.resumed(lost={"00-txt2img": ((0, 2**53 - 1),), "x": ((5, 1),)})
    shown = Shown(story)
    now = shown.now()
    assert now.percentage is None or 0.0 <= now.percentage < 100.0
    assert all(map(str.isprintable, (now.headline, now.detail, now.trouble, now.name)))


@pytest.mark.parametrize("place", ["name", "error", "reason", "stage", "config error"])
def test_nothing_that_is_shown_can_steer_a_terminal(place: str) -> None:
    """Nor break a line of a window; and none of it is of any length."""
    nasty = "\x1b]0;owned\x07\n\u202e" + "x" * 9000
    story = planned("txt2img")
    if place == "name":
        replan(story, {}, config={"name": nasty})
    elif place == "error":
        story.begin("txt2img").miss("txt2img", 0, error(message=nasty))
    elif place == "reason":
        story.move("cancel", reason=nasty)
    elif place == "stage":
        story.begin("txt2img")
        story.events[-1] = msgspec.structs.replace(story.events[-1], stage_id=nasty)
    shown = Shown(story)
    shown.now()
    if place == "config error":
        shown.bar.take_config_error(nasty)
    now = shown.now()
    texts = (now.name, now.headline, now.detail, now.trouble, now.reason, now.last_error)
    assert any("x" * 20 in text for text in texts)
    assert all(map(str.isprintable, texts))
    assert max(map(len, texts)) < 2100

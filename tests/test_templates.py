"""Dynamic prompts: what templates mean, what they draw, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stagewright.adapters import PillowInputReader
from stagewright.events import CallRequested
from stagewright.statemachine import RunConfig, build_stage_execution_plan
from stagewright.statemachine.config.document import check_config, parse_document
from stagewright.statemachine.config.inputs import resolve_config
from stagewright.statemachine.config.prompts import draw_prompts
from stagewright.statemachine.errors import ConfigurationError

from .resuming import cut_before, files, made, ran, resumed
from .support import document
from .test_prompts import opened

pytestmark = pytest.mark.lowest


def dynamic(prompt: str, folder: Path | None = None, **top: Any) -> dict[str, Any]:
    """A small configuration whose prompt is a template."""
    config = document(**{"prompt": prompt, "dynamic_prompts": True, **top})
    return config if folder is None else {**config, "wildcards": str(folder / "wildcards")}


def drawn(config: dict[str, Any]) -> RunConfig:
    """The configuration with its prompts."""
    found = resolve_config(config, inputs=PillowInputReader(), runs=Path())
    return draw_prompts(check_config(found))


def texts(prompt: str, folder: Path | None = None, **top: Any) -> list[str]:
    """The prompts of the images."""
    found = drawn(dynamic(prompt, folder, **top)).drawn_prompts
    assert found is not None
    return [one.prompt for one in found.prompts]


def wildcards(folder: Path, **lines: str) -> Path:
    """A folder with these wildcards; ``__`` in a name is a folder."""
    for name, text in lines.items():
        path = folder / "wildcards" / f"{name.replace('__', '/')}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def refusal(config: dict[str, Any]) -> str:
    """The one line with which a configuration is refused."""
    with pytest.raises(ConfigurationError) as caught:
        drawn(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("template", "combinations"),
    [
        ("plain", ["plain"]),
        ("", [""]),
        ("{a|b} {c|d}", ["a c", "a d", "b c", "b d"]),
        ("{2$$a|b|c}", ["a,b", "a,c", "b,a", "b,c", "c,a", "c,b"]),
        ("{0-1$$a|b}x", ["x", "ax", "bx"]),
        ("{2$$ and $$a|b}", ["a and b", "b and a"]),
        ("{3::a|b|}", ["a", "b", ""]),
        ("{a|{b|c}}", ["a", "b", "c"]),
        ("{a|a|b}", ["a", "b"]),
        ("__c__!", ["red!", "green # 1!"]),
        ("__sub/*__", ["x", "y", "z"]),
        ("{2$$__c__}", ["red,green # 1", "green # 1,red"]),
        ("__sub/{q|r}__", ["x", "y", "z"]),
        ("${v=!{a|b}}${v}${v}", ["aa", "bb"]),
        ("${v={a|b}}${v}${v}", ["aa", "ab", "ba", "bb"]),
        ("${v:none}", ["none"]),
        ("%{in ... light$${a|b}}", ["in a light", "in b light"]),
        ("__named(v=cat)__", ["my cat"]),
        ("<lora:{a|b}:1> {x|y}", ["<lora:{a|b}:1> x", "<lora:{a|b}:1> y"]),
        ("{<lora:a|__c__>|b}", ["<lora:a|__c__>", "b"]),
        ("a # b {x|y}", ["a # b x", "a # b y"]),
        ("http://a/b /* c */ 50% $5\t{x|y}", [f"http://a/b /* c */ 50% $5\t{one}" for one in "xy"]),
        ("(a:1.2) [b|c] | } {x|y}", ["(a:1.2) [b|c] | } x", "(a:1.2) [b|c] | } y"]),
        ("\U000f0000{x|y}", ["\U000f0000x", "\U000f0000y"]),
        ("two\nlines # {x|y}", ["two\nlines # x", "two\nlines # y"]),
    ],
)
def test_all_gives_every_combination_once(
    tmp_path: Path, template: str, combinations: list[str]
) -> None:
    """``"all"`` has each text of a template once, times ``images``, and draws only of these."""
    wildcards(
        tmp_path, c="red\n\n# no\n2::green # 1\nred\n", sub__q="x\ny\n", sub__r="y\nz\n",
        named="my ${v}",
    )  # fmt: skip
    every = texts(template, tmp_path, dynamic_prompts="all", images=2)
    assert every == [text for text in combinations for _ in range(2)]
    assert set(texts(template, tmp_path, images=40)) <= set(combinations)


def test_negative_prompts_and_rows_are_templates_too() -> None:
    """With ``"all"``, each prompt meets each negative prompt; a row keeps its seed."""
    config = dynamic("", dynamic_prompts="all", negative_prompt="{x|y}")
    config |= {"prompts": ["{a|b}", {"prompt": "c", "seed": 7}]}
    del config["prompt"]
    found = drawn(config).drawn_prompts
    assert found is not None
    pairs = [(one.prompt, one.negative_prompt) for one in found.prompts]
    assert pairs == [*((a, n) for a in "ab" for n in "xy"), ("c", "x"), ("c", "y")]
    assert found.seeds == (100, 101, 102, 103, 7, 7)


def test_the_same_seed_gives_the_same_prompts_on_any_machine(tmp_path: Path) -> None:
    """These texts never change: recorded configurations would no longer make the same run."""
    wildcards(tmp_path, c="red\n8::green\nblue\n")
    found = texts("{a|b|c|d} {1-2$$x|y|z} __c__", tmp_path, images=6, seed=1)
    assert found == PINNED
    other = texts("{a|b|c|d} {1-2$$x|y|z} __c__", tmp_path, images=5, seed=2)
    assert other == found[1:]


PINNED = [
    "c z,y green",
    "c y,z green",
    "c y green",
    "a y green",
    "b z blue",
    "d y green",
]


@given(st.integers(0, 2**32 - 50), st.integers(1, 40))
def test_each_image_draws_from_its_own_seed(seed: int, images: int) -> None:
    """An image's text does not depend on how many images there are before it."""
    template = "{a|b|c} {d|2::e|{f|g}}"
    together = texts(template, seed=seed, images=images)
    assert together[-1:] == texts(template, seed=seed + images - 1)


def test_draws_follow_the_weights() -> None:
    """Over 2,000 seeds, an option of weight 3 is drawn three times as often."""
    found = texts("{3::a|b}", images=2000)
    assert 1400 < found.count("a") < 1600
    assert "b" not in texts("{1::a|0::b}", images=500)


BOMB = {f"w{number}": f"__w{number + 1}__ __w{number + 1}__" for number in range(30)}


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("__none__", "the wildcard __none__ is missing: there is no file"),
        ("x {a|__sub/none__}", "the wildcard __sub/none__ is missing"),
        ("__no*__", "the wildcard __no*__ is missing: no file matches"),
        ("__empty__", "the wildcard __empty__ is empty"),
        ("__a__", "the wildcard __a__ names itself: __a__ -> __b__ -> __a__"),
        ("{x|__self__}", "the wildcard __self__ names itself"),
        ("__../secret__", "__../secret__ is not the name of a file within"),
        ("__sub/../../secret__", "is not the name of a file within"),
        ("__/etc/passwd__", "is not the name of a file within"),
        ("__sub\\x__", "is not the name of a file within"),
        ("__C:x__", "is not the name of a file within"),
        (f"__{'x' * 300}__", "is not the name of a file: File name too long"),
        ("__binary__", "cannot be used"),
        ("__in__", "in the wildcard __in__, it cannot be read from"),
        ("{a", "it cannot be read from '{a'"),
        ("a {b|c", "it cannot be read from '{b|c'"),
        ("snake__case", "it cannot be read from '__case'"),
        ("${v}", "the variable ${v} is not set"),
        ("${v=${v}}${v}", "nested more than 64 deep"),
        ("{" * 40 + "a|b" + "}" * 40, "nested more than 16 deep"),
        ("{@a|b}", "has a sampler ! or @"),
        ("__w0__", "more than 100000 parts"),
        ("__deep0__", "nested more than 64 deep"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_line(
    hostile: Path, template: str, message: str
) -> None:
    """Before anything is made."""
    told = refusal(dynamic(template, hostile))
    assert message in told
    assert told.startswith("prompt cannot be used: ")
    assert len(told) < 900


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wildcards that cannot be used."""
    folder = tmp_path_factory.mktemp("hostile")
    wildcards(
        folder, empty="# a\n\n", a="__b__", b="c {x|__a__}", self="__self__", **BOMB, w30="x",
        **{"in": "ok\n{a\n"}, **{f"deep{n}": f"__deep{n + 1}__" for n in range(80)}, deep80="x",
    )  # fmt: skip
    (folder / "secret.txt").write_text("x", encoding="utf-8")
    (folder / "wildcards" / "binary.txt").write_bytes(b"\xff\x00")
    return folder


@pytest.mark.parametrize("template", ["__none__", "__w0__"])
@pytest.mark.parametrize("key", ["prompt", "negative_prompt", "prompts"])
@pytest.mark.parametrize("mode", [True, "all"])
def test_a_template_is_refused_by_the_key_that_holds_it(
    hostile: Path, template: str, key: str, mode: object
) -> None:
    """In every place and mode."""
    config = dynamic("p", hostile, dynamic_prompts=mode)
    config[key] = [template] if key == "prompts" else template
    if key == "prompts":
        del config["prompt"]
    assert refusal(config).startswith(f"{key} cannot be used: ")


@pytest.mark.parametrize(
    "template", ["{a|b}" * 20, "{10$$" + "|".join("abcdefghijkl") + "}", "__many____many__"]
)
def test_a_million_combinations_are_refused_at_once(tmp_path: Path, template: str) -> None:
    """Nobody waits for their number."""
    wildcards(tmp_path, many="\n".join(map(str, range(1001))))
    told = refusal(dynamic(template, tmp_path, dynamic_prompts="all"))
    assert told == "prompt cannot be used: there are more than 1000000 combinations"


def test_texts_beyond_one_record_are_refused(tmp_path: Path) -> None:
    """Neither draws nor combinations fill the memory."""
    wildcards(tmp_path, long="x" * 100_000)
    for top in ({"images": 1000}, {"dynamic_prompts": "all"}):
        told = refusal(dynamic("__long__" + "{a|b}" * 9, tmp_path, **top))
        assert "longer than a record of 16777216 bytes" in told


def test_plain_text_that_looks_like_a_template_is_used_as_written_with_a_warning() -> None:
    """With dynamic prompts off, and in a stage's own prompts always."""
    config = document("txt2img", "img2img", prompt="a {b|c}", negative_prompt="<lora:{a|b}:1> {x}")
    config["img2img"]["prompt"] = "__style__"
    plan = build_stage_execution_plan(config)
    assert [one.config.prompt for one in plan.stages] == ["a {b|c}", "__style__"]  # type: ignore[attr-defined]  # both have one
    assert [one.partition(" looks")[0] for one in plan.warnings] == ["prompt", "img2img.prompt"]
    rows = {**config, "prompts": ["{a|b}", "plain", "__c__"]}
    del rows["prompt"]
    assert "2 rows of prompts look like templates" in build_stage_execution_plan(rows).warnings[0]
    assert len(build_stage_execution_plan({**config, "dynamic_prompts": True}).warnings) == 1


def test_a_wildcard_that_changes_after_the_start_changes_nothing(tmp_path: Path) -> None:
    """A resume sends what was recorded; the files that were read are named by digest."""
    wildcards(tmp_path, c="red\ngreen\nblue\n")
    config = dynamic("a __c__ {x|y}", tmp_path, images=6)
    run = made(tmp_path / "runs", config)
    whole = {name: data for name, data in files(run).items() if "images" in name}
    first = opened(run)
    cut_before(run, CallRequested, 3)
    for name in list(whole)[3:]:
        (run / name).unlink()
    wildcards(tmp_path, c="other\n")
    assert resumed(run).outcome == "completed"
    assert opened(run) == first
    assert isinstance(first.sources, tuple)
    assert [one.path for one in first.sources] == [str(tmp_path / "wildcards/c.txt")]


def test_a_drawn_seed_is_recorded_with_its_prompts(tmp_path: Path) -> None:
    """With seed -1, the recorded prompts are those that the recorded seed gives."""
    config = dynamic("{a|b|c} {d|e|f}", images=5, seed=-1)
    first = opened(ran(tmp_path, config))
    assert isinstance(first.prompts, tuple)
    again = texts(config["prompt"], images=5, seed=first.seeds[0])
    assert [one.prompt for one in first.prompts] == again


def test_the_library_is_loaded_only_for_templates() -> None:
    """Neither a command nor a plan without dynamic prompts waits for it."""
    program = (
        "import sys\n"
        "from stagewright.statemachine import build_stage_execution_plan as plan\n"
        f"plan({document()!r})\n"
        f"plan({ ({**document(), 'prompts': ['a'], 'prompt': None})!r})\n"
        "assert not {'dynamicprompts', 'pyparsing'} & set(sys.modules)\n"
        f"plan({dynamic('{a|b}')!r})\n"
        "assert 'dynamicprompts' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_document_of_a_program_may_have_templates() -> None:
    """Without any file, templates are drawn, and a wildcard is refused by name."""
    assert build_stage_execution_plan(dynamic("{a|b}", images=3)).total_images == 3
    with pytest.raises(ConfigurationError, match="no folder of wildcards was looked for"):
        build_stage_execution_plan(parse_document(dynamic("__c__")))

"""Commands that take a group where they take a run: what each of them shows of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from stagewright.events.groups.log import GROUP_LOG_NAME
from stagewright.events.log.kind import LOG_NAME
from stagewright.statemachine.errors import ResumeRefusedError
from stagewright.statemachine.groups.result import GroupResult

from .command_line import stagewright
from .group_runs import run_group
from .support import controller, document
from .sweeping import refusing, swept
from .test_completion import completed


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GroupResult, str]:
    """A folder with a single run, and a group of four variants of two images each."""
    folder = tmp_path_factory.mktemp("made")
    result = swept(folder / "runs", name="sweep", images=2)
    single = controller(folder / "runs").start(document(name="alone"))
    single.wait(30)
    return folder, result, single.run_id


@pytest.fixture
def own(made: tuple[Path, GroupResult, str], tmp_path: Path) -> tuple[Path, GroupResult]:
    """A copy of it that a test may change."""
    shutil.copytree(made[0] / "runs", tmp_path / "runs")
    return tmp_path, made[1]


def shown(*arguments: str | Path, folder: Path, status: int = 0) -> str:
    """What a command prints on standard output."""
    done = stagewright(*arguments, folder=folder)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def parsed(*arguments: str | Path, folder: Path) -> Any:
    """The JSON document that a command prints."""
    return json.loads(shown(*arguments, "--json", folder=folder))


def test_a_group_is_found_by_each_of_its_names(made: tuple[Path, GroupResult, str]) -> None:
    """Its id, the beginning of it, its six digits, ``last-group``, its folder; not by a run's."""
    folder, result, single = made
    group_id = result.group_id
    place = folder / "runs" / "groups" / group_id
    log = place / GROUP_LOG_NAME
    for name in (group_id, group_id[:30], group_id[-6:], "last-group", place, log):
        assert parsed("replay", name, folder=folder)["group_id"] == group_id
    elsewhere = folder.parent
    assert parsed("replay", place, folder=elsewhere)["variants"][0]["state"] == "COMPLETED"
    missing = stagewright("replay", "last-group", "--runs", folder, folder=folder)
    assert (missing.returncode, "there is no group yet" in missing.stderr) == (2, True)
    refused = stagewright("bundle", "last-group", folder=folder)
    assert refused.returncode == 2
    assert "last-group is a group, and this command takes a run" in refused.stderr
    assert parsed("replay", single, folder=folder)["run_id"] == single


def test_a_renamed_group_is_found_by_the_id_in_its_log(tmp_path: Path) -> None:
    """Every command takes the id, and names it; what it advises works; its runs are not lost."""
    folder, result = tmp_path, run_group(tmp_path / "runs", [2, 3])
    group_id, place = result.group_id, folder / "runs" / "groups"
    (place / group_id).rename(place / "best")
    run_group(folder / "runs", [2])
    (place / "broken").mkdir()
    (place / "broken" / GROUP_LOG_NAME).write_bytes(b"noise")
    for name in (group_id, group_id[-6:], "best", place / "best"):
        assert parsed("show", name, folder=folder)["group_id"] == group_id
    assert f" {group_id[-6:]} " in shown("list", folder=folder)
    assert parsed("replay", group_id, folder=folder)["state"] == "COMPLETED"
    shutil.rmtree(folder / "runs" / str(result.variants[1].run_id))
    advice = shown("show", "best", folder=folder).splitlines()[-1]
    assert advice == f"to continue: stagewright resume {group_id[-6:]}"
    assert parsed("resume", group_id[-6:], folder=folder)["state"] == "COMPLETED"
    refused = stagewright("cancel", group_id[-6:], folder=folder)
    assert f"{group_id} is not running (state: COMPLETED)" in refused.stderr
    done = stagewright("rm", str(result.variants[0].run_id), "--yes", folder=folder)
    assert done.returncode == 0
    assert parsed("show", group_id, folder=folder)["variants"][0]["state"] == "REMOVED"


def test_the_last_group_is_the_one_that_was_opened_last(own: tuple[Path, GroupResult]) -> None:
    """Whatever the folder of an older one is called."""
    folder, result = own
    place = folder / "runs" / "groups"
    (place / result.group_id).rename(place / "zzz")
    newer = run_group(folder / "runs", [2])
    assert parsed("show", "last-group", folder=folder)["group_id"] == newer.group_id


def test_a_group_that_is_named_by_its_path_is_resumed_where_its_runs_are(tmp_path: Path) -> None:
    """Not made once more in the folder of runs that another working folder has."""
    result = run_group(tmp_path / "runs", [2, 3])
    place = tmp_path / "runs" / "groups" / result.group_id
    shutil.rmtree(tmp_path / "runs" / str(result.variants[1].run_id))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(ResumeRefusedError, match="the runs of this group are in"):
        controller(elsewhere / "runs").resume_group(str(place))
    assert parsed("resume", place, folder=elsewhere)["state"] == "COMPLETED"
    assert list(elsewhere.iterdir()) == []
    assert parsed("replay", "last-group", folder=tmp_path)["state"] == "COMPLETED"


def test_a_group_is_followed_from_its_own_folder(made: tuple[Path, GroupResult, str]) -> None:
    """Its runs are found where they are, although its path names no folder around it."""
    folder, result, _ = made
    place = folder / "runs" / "groups" / result.group_id
    for name, working in ((".", place), (result.group_id, place.parent)):
        assert parsed("follow", name, folder=working)["state"] == "COMPLETED"
        refused = stagewright("cancel", name, folder=working)
        assert refused.returncode == 2
        assert "is not running (state: COMPLETED)" in refused.stderr


@pytest.mark.parametrize("is_torn", [False, True])
def test_a_complete_group_without_a_seal_is_sealed_by_a_resume(
    own: tuple[Path, GroupResult], *, is_torn: bool
) -> None:
    """Which says so; until then and afterwards every command shows the same state."""
    folder, result = own
    log = folder / "runs" / "groups" / result.group_id / GROUP_LOG_NAME
    *lines, seal = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines) + (seal[:40] if is_torn else b""))
    cut = "cut 40 torn bytes off the log, " if is_torn else ""
    for status, words in ((1, f"COMPLETED; resume would {cut}seal the log"), (0, "COMPLETED")):
        assert f"{result.group_id}: COMPLETED" in shown("show", "last-group", folder=folder)
        assert f"{result.group_id}: COMPLETED" in shown("list", "last-group", folder=folder)
        assert f"variants, {words}" in shown("verify", "last-group", folder=folder, status=status)
        rest = "its log has been sealed" if status else "nothing to do"
        done = stagewright("resume", "last-group", folder=folder)
        assert done.stderr == f"{result.group_id}: already complete; {rest}\n"


def test_a_variant_whose_run_is_gone_is_missing_until_a_resume_makes_it(tmp_path: Path) -> None:
    """Also for ``list``; its JSON still names the run. What was removed on purpose stays away."""
    result = run_group(tmp_path / "runs", [2, 3, 4])
    first, second, _ = (str(one.run_id) for one in result.variants)
    shutil.rmtree(tmp_path / "runs" / first)
    assert stagewright("rm", second, "--yes", folder=tmp_path).returncode == 0
    for command in ("show", "replay"):
        assert "1 MISSING, 1 REMOVED, 1 COMPLETED" in shown(command, "last-group", folder=tmp_path)
    (row,) = (
        line
        for line in shown("list", "last-group", folder=tmp_path).splitlines()
        if first[-6:] in line
    )
    assert "MISSING" in row
    variant = parsed("show", "last-group", folder=tmp_path)["variants"][0]
    assert (variant["state"], variant["run_id"]) == ("MISSING", first)
    resumed = parsed("resume", "last-group", folder=tmp_path)
    assert [one["state"] for one in resumed["variants"]] == ["COMPLETED", "REMOVED", "COMPLETED"]


@pytest.mark.parametrize("command", ["resume", "follow", "cancel"])
def test_a_name_of_nothing_may_have_been_meant_for_a_run_or_a_group(
    tmp_path: Path, command: str
) -> None:
    done = stagewright(command, "nope", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "stagewright: there is no run or group 'nope' in runs\n"


def test_a_varied_seed_is_shown_with_the_variants_alone(
    made: tuple[Path, GroupResult, str], tmp_path: Path
) -> None:
    """The seed that stands in for -1 is of no run then."""
    swept(tmp_path / "runs", vary=["seed=5,6"])
    rows = shown("show", "last-group", folder=tmp_path).splitlines()
    assert not [row for row in rows if row.startswith("seed ")]
    assert parsed("show", "last-group", folder=tmp_path)["seed"] is None
    rows = shown("show", "last-group", folder=made[0]).splitlines()
    assert [row for row in rows if row.startswith("seed ")]
    assert isinstance(parsed("show", "last-group", folder=made[0])["seed"], int)


def test_replay_shows_a_line_for_each_variant(made: tuple[Path, GroupResult, str]) -> None:
    """With its varied values, its run, its state and its images; then the counts."""
    folder, result, _ = made
    lines = shown("replay", "last-group", folder=folder).splitlines()
    assert lines[0] == f"{result.group_id}: COMPLETED"
    assert lines[1].split() == ["CFG_SCALE", "SAMPLER", "RUN", "STATE", "IMAGES"]
    first = result.variants[0]
    assert first.run_id is not None
    assert lines[2].split() == ["1", "5.0", "Euler", "a", first.run_id[-6:], "COMPLETED", "2/2"]
    assert lines[-1] == "4 variants: 4 COMPLETED; 8 of 8 images"
    document = parsed("replay", "last-group", folder=folder)
    assert document["state"] == "COMPLETED"
    assert [one["variant_index"] for one in document["variants"]] == [0, 1, 2, 3]
    assert document["variants"][3]["values"] == result.variants[3].values
    assert document["variants"][3]["outcome"] == "completed"
    assert stagewright("replay", "last-group", "--until", "3", folder=folder).returncode == 2


def test_a_group_with_failures_says_which_and_what_to_do(tmp_path: Path) -> None:
    """The error of each failed variant, the counts, and the command that goes on."""
    result = swept(tmp_path / "runs", backend=refusing(), server={"retries": 0})
    text = shown("replay", "last-group", folder=tmp_path)
    assert "4 variants: 2 COMPLETED, 2 ERROR; 2 of 4 images" in text
    assert "variant 3: RuntimeError: no <b>memory</b>" in text
    assert text.splitlines()[-1] == f"to continue: stagewright resume {result.group_id[-6:]}"
    assert "1 group of these can be resumed" in shown("list", folder=tmp_path)
    assert "2/4 variants" in shown("list", folder=tmp_path)


def test_list_has_one_row_for_a_group(made: tuple[Path, GroupResult, str]) -> None:
    """Among the single runs, newest first; with filters, columns or JSON each run has its own."""
    folder, result, single = made
    header, *rows = shown("list", folder=folder).splitlines()
    assert header.split()[0] == "RUN"
    assert [row.split()[0] for row in rows[:2]] == [single[-6:], result.group_id[-6:]]
    assert "4/4 variants" in rows[1]
    assert "8/8" in rows[1]
    assert len(shown("list", "--columns", "run,group,variant", folder=folder).splitlines()) == 6
    where = f"group={result.group_id}"
    assert len(shown("list", "--where", where, folder=folder).splitlines()) == 5
    entries = parsed("list", folder=folder)
    assert len(entries) == 5
    assert [one["variant_index"] for one in entries] == [None, 3, 2, 1, 0]
    assert len(shown("list", "--limit", "1", folder=folder).splitlines()) == 2
    assert "no run" in shown("list", "--since", "2126-01-01", folder=folder)


def test_list_of_a_group_shows_its_runs_with_what_is_varied(
    made: tuple[Path, GroupResult, str],
) -> None:
    """All of them, or those that the filters leave."""
    folder, result, _ = made
    lines = shown("list", "last-group", folder=folder).splitlines()
    assert lines[0] == f"{result.group_id}: COMPLETED"
    assert [line.split()[0] for line in lines[2:6]] == ["1", "2", "3", "4"]
    assert lines[6] == "4 of 4 variants COMPLETED; 8 of 8 images"
    assert "no run matches" in shown("list", "last-group", "--state", "error", folder=folder)
    assert len(parsed("list", "last-group", folder=folder)) == 4
    assert len(shown("list", "last-group", "--columns", "run", folder=folder).splitlines()) == 5


def test_a_group_whose_log_is_damaged_is_shown_as_such(own: tuple[Path, GroupResult]) -> None:
    """It has its row; its runs, and the other commands, are not affected."""
    folder, result = own
    log = folder / "runs" / "groups" / result.group_id / GROUP_LOG_NAME
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    log.write_bytes(data)
    rows = shown("list", folder=folder).splitlines()
    assert any(result.group_id[-6:] in row and "CORRUPT" in row for row in rows)
    assert len(parsed("list", folder=folder)) == 5
    done = stagewright("show", "last-group", folder=folder)
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    checked = stagewright("verify", "last-group", folder=folder)
    assert (checked.returncode, "corrupt" in checked.stdout) == (4, True)
    assert "4 runs and 1 group checked" in checked.stdout
    assert stagewright("verify", "--all", folder=folder).returncode == 4
    first = result.variants[0].run_id
    assert stagewright("show", str(first), folder=folder).returncode == 0


def test_show_says_what_a_group_is(made: tuple[Path, GroupResult, str]) -> None:
    """Its name, axes, seed, backend, software and times; in JSON beside its result."""
    folder, result, _ = made
    text = shown("show", "last-group", folder=folder)
    for words in ("name            sweep", "txt2img.cfg_scale: 5.0, 7.0", "seed            100"):
        assert words in text
    for name in ("backend", "software", "opened", "ended", "log"):
        assert f"\n{name:<15} " in text
    found = parsed("show", "last-group", folder=folder)
    assert (found["name"], found["group_id"]) == ("sweep", result.group_id)
    assert {"axes", "seed", "options", "software", "opened_at", "ended_at"} <= found.keys()


def test_a_run_and_an_image_of_a_variant_name_their_group(
    made: tuple[Path, GroupResult, str],
) -> None:
    """With the variant's number and its varied values; a single run names none."""
    folder, result, single = made
    run = result.variants[2].run_id
    for name in (str(run), f"{run}#2"):
        text = shown("show", name, folder=folder)
        assert f"variant 3 of {result.group_id}" in text
        assert "cfg_scale 7.0, sampler Euler a" in text
    image = parsed("show", f"{run}#2", folder=folder)
    assert (image["group_id"], image["variant_index"]) == (result.group_id, 2)
    assert image["varied"] == {"txt2img.cfg_scale": 7.0, "txt2img.sampler": "Euler a"}
    assert "\ngroup " not in shown("show", single, folder=folder)


def test_diff_pairs_the_variants_with_equal_values(own: tuple[Path, GroupResult]) -> None:
    """Each pair in one line; what is in one group only; equal groups are the same."""
    folder, result = own
    first = result.group_id[-6:]
    vary = ("txt2img.cfg_scale=7,9.0", "txt2img.sampler=Euler a,DDIM")
    other = swept(folder / "runs", name="sweep", images=2, seed=7, vary=vary)
    again = swept(folder / "runs", name="sweep", images=2)
    text = shown("diff", first, other.group_id, folder=folder)
    assert "2 pairs of variants with equal values, 2 with a difference" in text
    assert "3, 1  cfg_scale 7.0, sampler Euler a: seed: 100 -> 7" in text
    assert "only left: 2 variants" in text
    assert "4  cfg_scale 9.0, sampler DDIM: COMPLETED" in text
    found = parsed("diff", first, other.group_id, folder=folder)
    assert (len(found["pairs"]), found["same"]) == (2, False)
    assert "no difference" in shown("diff", first, again.group_id, folder=folder)
    done = stagewright("diff", first, other.group_id, "--exit-code", folder=folder)
    assert done.returncode == 1
    mixed = stagewright("diff", first, str(result.variants[0].run_id), folder=folder)
    assert (mixed.returncode, "two runs, or two groups" in mixed.stderr) == (2, True)


def test_diff_of_two_variants_names_the_varied_values_first(
    made: tuple[Path, GroupResult, str],
) -> None:
    """Before the configurations and plans, in which they are as well."""
    folder, result, _ = made
    runs = [str(result.variants[index].run_id) for index in (0, 2)]
    lines = shown("diff", *runs, folder=folder).splitlines()
    assert lines[3:5] == ["varied values", "  txt2img.cfg_scale: 5.0 -> 7.0"]


def test_learning_records_of_a_group(own: tuple[Path, GroupResult]) -> None:
    """Each has the group, the variant and its varied values; the command counts or prints them."""
    folder, result = own
    text = shown("learning", "last-group", folder=folder)
    assert f"group {result.group_id}: 4 records of 4 runs" in text
    found = parsed("learning", "last-group", folder=folder)
    assert [one["variant_index"] for one in found["records"]] == [0, 1, 2, 3]
    assert {one["group_id"] for one in found["records"]} == {result.group_id}
    assert json.loads(found["records"][3]["varied"]) == result.variants[3].values
    assert parsed("learning", folder=folder)["records"] == 5
    (folder / "runs" / str(result.variants[0].run_id) / LOG_NAME).write_bytes(b"damaged\n")
    assert len(parsed("learning", "last-group", folder=folder)["records"]) == 3


def test_the_configuration_of_a_group_makes_it_again(own: tuple[Path, GroupResult]) -> None:
    """With its sweep: the same variants with the same values."""
    folder, result = own
    text = shown("config", "last-group", folder=folder)
    (folder / "again.toml").write_text(text, encoding="utf-8")
    plan = controller(folder / "runs").plan_group(folder / "again.toml")
    assert [one.values for one in plan.variants] == [one.values for one in result.variants]
    assert plan.axes == result.axes


def test_verify_checks_the_group_and_its_runs(own: tuple[Path, GroupResult]) -> None:
    """It says what a resume would do, and exits with 4 for an altered image."""
    folder, result = own
    text = shown("verify", "last-group", folder=folder)
    assert f"{result.group_id}: sound: 6 events, 4 variants, COMPLETED" in text
    assert text.splitlines()[-1] == "4 runs and 1 group checked"
    assert "5 runs and 1 group checked" in shown("verify", "--all", folder=folder)
    documents = parsed("verify", "last-group", folder=folder)
    assert (documents[0]["group_id"], documents[0]["variants"]) == (result.group_id, 4)
    assert [one["run_id"] for one in documents[1:]] == [one.run_id for one in result.variants]
    shutil.rmtree(folder / "runs" / str(result.variants[1].run_id))
    text = shown("verify", "last-group", folder=folder, status=1)
    assert "sound but unfinished: 6 events, 4 variants, ERROR; resume would begin 1 run" in text
    image = next((folder / "runs" / str(result.variants[0].run_id)).glob("images/*/*"))
    image.write_bytes(b"altered")
    shown("verify", "last-group", folder=folder, status=4)


def test_groups_are_completed_where_a_run_may_be_one(
    made: tuple[Path, GroupResult, str],
) -> None:
    """After the runs; ``list`` and ``learning`` take groups alone, ``bundle`` takes none."""
    folder, result, _ = made
    group = [result.group_id[-6:], "last-group"]
    for command in ("show", "replay", "report", "rm", "archive", "verify", "diff last", "config"):
        found = completed(f"stagewright {command} ", folder)
        assert found[-2:] == group
        assert "last" in found
    for command in ("list", "learning"):
        assert completed(f"stagewright {command} ", folder) == group
    assert completed("stagewright bundle ", folder)[-1] == "last"

"""The one queue of ``serve-embedded``: interrupts, progress, tasks."""

from __future__ import annotations

import threading

from PIL import Image
from stagewright.statemachine.stages import Txt2ImgConfig, UpscaleConfig

from .command_line import until
from .pictures import made, same_pixels
from .serving import (
    FACE_ARGS,
    SLOW,
    SMALL,
    Client,
    InBackground,
    Json,
    ask_in_vain,
    detailed,
    info,
    pictures,
    received,
    sent,
    serving,
)


def test_an_idle_server_reports_nothing(served: Client) -> None:
    """Progress 0, no job, and no picture."""
    found = served.get("progress", skip_current_image="true")
    assert (found["progress"], found["eta_relative"], found["current_image"]) == (0, 0, None)
    assert (found["state"]["job"], found["state"]["job_count"]) == ("", 0)


def under_way(found: Json) -> bool:
    """Whether some steps are done."""
    return bool(found["state"]["sampling_step"] >= 3)


def test_an_interrupt_gives_a_half_made_image(slow: Client) -> None:
    """200, the image begun and none after it; the flag stays until the next job."""
    running = InBackground(slow, "txt2img", SLOW | {"n_iter": 3})
    until(lambda: under_way(slow.get("progress")), "steps")
    found = slow.get("progress")
    assert 0 < found["progress"] < 1
    assert found["eta_relative"] > 0
    assert (found["state"]["job_count"], found["state"]["sampling_steps"]) == (3, 2000)
    assert slow.post("interrupt", {}) == {}
    answer = running.answer()
    assert [image.size for image in pictures(answer)] == [(64, 64)]
    assert slow.get("progress")["state"]["interrupted"] is True
    slow.post("txt2img", SMALL)
    assert slow.get("progress")["state"]["interrupted"] is False


def test_an_interrupt_when_idle_stops_no_later_job(served: Client) -> None:
    """It only sets the flag, which the next job clears."""
    served.post("interrupt", {})
    assert served.get("progress")["state"]["interrupted"] is True
    whole = served.post("txt2img", SMALL)
    config = Txt2ImgConfig(prompt="a lighthouse", seed=5, steps=4, width=64, height=64)
    assert same_pixels(pictures(whole)[0], made(config, seed=5))
    assert served.get("progress")["state"]["interrupted"] is False


def test_an_interrupted_hires_has_the_size_of_the_first_pass(slow: Client) -> None:
    """Interrupted in its second pass, hires gives what the first one made."""
    body = SMALL | {"enable_hr": True, "hr_second_pass_steps": 2000, "denoising_strength": 0.5}
    running = InBackground(slow, "txt2img", body)
    slow.interrupt_when(lambda found: found["state"]["job_no"] == 1)
    first = Txt2ImgConfig(prompt="a lighthouse", seed=5, steps=4, width=64, height=64)
    assert same_pixels(pictures(running.answer())[0], made(first, seed=5))


def test_skip_goes_on_with_the_next_image(slow: Client) -> None:
    """The image under way is half made, the others are there."""
    running = InBackground(slow, "txt2img", SLOW | {"n_iter": 2})
    until(lambda: under_way(slow.get("progress")), "steps of the first image")
    slow.post("skip", {})
    slow.interrupt_when(lambda found: found["state"]["job_no"] == 1)
    assert len(pictures(running.answer())) == 2


def test_an_interrupted_adetailer_keeps_the_passes_done(slow: Client, face: Image.Image) -> None:
    """The pass under way leaves no trace but its claim."""
    long = FACE_ARGS | {"ad_use_steps": True, "ad_steps": 2000}
    running = InBackground(slow, "img2img", detailed(face, FACE_ARGS, long))
    slow.interrupt_when(lambda found: found["state"]["job_no"] == 1)
    answer = running.answer()
    alone = slow.post("img2img", detailed(face, FACE_ARGS))
    assert same_pixels(pictures(answer)[0], pictures(alone)[0])
    assert "ADetailer model 2nd" in info(answer)["extra_generation_params"]


def test_an_interrupted_upscale_is_given_again(face: Image.Image) -> None:
    """Of the right size but plainly resized, until the factor is varied a little."""
    with serving(step_delay_s=0.5) as client:
        body = {"image": sent(face), "upscaler_1": "R-ESRGAN 4x+", "upscaling_resize": 2}
        running = InBackground(client, "extra-single-image", body)
        client.interrupt_when(lambda found: found["progress"] == 1)
        plain = made(UpscaleConfig(upscaler="Lanczos", factor=2.0), face)
        assert same_pixels(received(running.answer()["image"]), plain)
        again = client.post("extra-single-image", body)
        assert same_pixels(received(again["image"]), plain)
        varied = client.post("extra-single-image", body | {"upscaling_resize": 2.0005})
        whole = made(UpscaleConfig(upscaler="R-ESRGAN 4x+", factor=2.0005), face)
        assert same_pixels(received(varied["image"]), whole)


def test_by_size_only_the_crop_evades_the_cache(face: Image.Image) -> None:
    """There the factor follows from the size, so that varying the one sent does not help."""
    with serving(step_delay_s=0.5) as client:
        body = {
            "image": sent(face), "upscaler_1": "R-ESRGAN 4x+", "resize_mode": 1,
            "upscaling_resize_w": 2 * face.width, "upscaling_resize_h": 2 * face.height,
        }  # fmt: skip
        running = InBackground(client, "extra-single-image", body)
        client.interrupt_when(lambda found: found["progress"] == 1)
        spoilt = running.answer()["image"]
        varied = client.post("extra-single-image", body | {"upscaling_resize": 2.0005})
        assert same_pixels(received(varied["image"]), received(spoilt))
        other = client.post("extra-single-image", body | {"upscaling_crop": False})
        assert not same_pixels(received(other["image"]), received(spoilt))


def task(served: Client, name: str) -> tuple[bool, bool, bool]:
    """Whether a task is active, queued, completed."""
    found = served.post("/internal/progress", {"id_task": name})
    return found["active"], found["queued"], found["completed"]


def test_requests_wait_in_turn_and_tasks_are_tracked(slow: Client) -> None:
    """One is active, the next queued; lists answer meanwhile; both are completed at last."""
    first = InBackground(slow, "txt2img", SLOW | {"force_task_id": "first"})
    until(lambda: task(slow, "first") == (True, False, False), "the first task")
    second = InBackground(slow, "txt2img", SMALL | {"force_task_id": "second"})
    until(lambda: task(slow, "second") == (False, True, False), "the second task")
    until(lambda: slow.post("/internal/progress", {"id_task": "first"})["progress"] > 0, "steps")
    assert slow.get("samplers")
    assert second.waits
    slow.post("interrupt", {})
    assert first.answer()["images"]
    assert second.answer()["images"]
    assert task(slow, "first") == task(slow, "second") == (False, False, True)
    assert task(slow, "unheard of") == (False, False, False)


def test_sixteen_finished_tasks_are_kept_and_failed_ones_stay_active(face: Image.Image) -> None:
    """A task that fails stays active until another starts."""
    with serving() as client:
        for number in range(17):
            client.post("txt2img", SMALL | {"steps": 1, "force_task_id": f"task {number}"})
        assert task(client, "task 0") == (False, False, False)
        assert task(client, "task 1") == (False, False, True)
        client.post("txt2img", SMALL | {"steps": 0, "force_task_id": "fails"}, status=500)
        assert task(client, "fails") == (True, False, False)
        client.post("img2img", SMALL | {"init_images": [sent(face)]})
        assert task(client, "fails") == (False, False, False)


def test_a_server_closes_over_running_and_waiting_requests() -> None:
    """Closing cancels the running job and refuses the waiting one; no thread is left."""
    before = set(threading.enumerate())
    with serving(step_delay_s=3600.0) as client:
        for name in ("running", "waiting"):
            asked = SMALL | {"force_task_id": name}
            threading.Thread(target=ask_in_vain, args=(client.url, asked)).start()
            until(lambda: any(task(client, name)[:2]), f"the task {name}")  # noqa: B023 - at once
    until(lambda: set(threading.enumerate()) <= before, "the end of all threads")

"""What an answer says otherwise than its request: each difference, and none where none is."""

from __future__ import annotations

from typing import Any

import pytest
from stagewright.adapters.backends.webui.answer_check import (
    MAX_ANSWER_BYTES,
    MAX_WORDS_BYTES,
    AnswerComparison,
    answer_limit,
    expected_size,
    size_difference,
)
from stagewright.adapters.backends.webui.features import FORGE, SD_NEXT, ServerFeatures
from stagewright.adapters.backends.webui.spellings import stem
from stagewright.events.model import StageType
from stagewright.statemachine.ports import GenerateRequest, SourceImage
from stagewright.statemachine.stages import (
    AdetailerConfig,
    AdetailerPass,
    HiresConfig,
    Img2ImgConfig,
    RefinerConfig,
    StageConfig,
    Txt2ImgConfig,
    UpscaleConfig,
)

Size = tuple[int, int]
UNKNOWN = ServerFeatures()
REFINER = RefinerConfig(model="refiner.safetensors", switch_at=0.8)
REFINED = {"Refiner": "refiner [7440042bbd]", "Refiner switch at": 0.8}
HIRES = HiresConfig(scale=2.0, denoise=0.5)
ALONE: dict[str, Any] = {"width": 128, "height": 128, "steps": 1}
TYPES = {
    Txt2ImgConfig: StageType.TXT2IMG,
    Img2ImgConfig: StageType.IMG2IMG,
    UpscaleConfig: StageType.UPSCALE,
    AdetailerConfig: StageType.ADETAILER,
}


def txt2img(**fields: Any) -> Txt2ImgConfig:
    base: dict[str, Any] = {"model": "base.safetensors", "width": 512, "height": 768}
    return Txt2ImgConfig(**{"prompt": "", "seed": 40, **base, **fields})


def img2img(**fields: Any) -> Img2ImgConfig:
    return Img2ImgConfig(**{"model": "base.safetensors", **fields})


def adetailer(*models: str) -> AdetailerConfig:
    passes = tuple(AdetailerPass(model=model) for model in models)
    return AdetailerConfig(prompt="", seed=40, sampler="Euler a", steps=20, passes=passes)


def request(config: StageConfig, count: int = 1, size: Size = (512, 768)) -> GenerateRequest:
    """A request with seed 42, and one input of ``size`` for all but txt2img."""
    kind = TYPES[type(config)]
    source = SourceImage(
        data=b"", source_sha256="s" * 64, media_type="image/png", width=size[0], height=size[1]
    )
    return GenerateRequest(
        call_id="call",
        run_id="run",
        stage_id=f"00-{kind}",
        stage_type=kind,
        image_index=0,
        total_images=count,
        count=count,
        attempt=0,
        seed=42,
        config=config,
        inputs=() if kind == StageType.TXT2IMG else (source,),
    )


def said(
    config: StageConfig,
    told: dict[str, Any] | None = None,
    *,
    features: ServerFeatures = UNKNOWN,
    count: int = 1,
    **info: Any,
) -> list[str]:
    """The differences for an info with these values, ``told`` its generation parameters."""
    whole = {**info, "extra_generation_params": told or {}}
    return list(AnswerComparison(request(config, count), whole, features, str).differences())


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("base.safetensors", "base"),
        ("sdxl/base.safetensors", "base"),
        ("sdxl\\xl\\base.CKPT", "base"),
        ("base.safetensors [31e35c80fc]", "base"),
        ("base [31E35C80FC]", "base"),
        ("v1.5-pruned.emaonly", "v1.5-pruned.emaonly"),
        ("face_yolov8n.pt", "face_yolov8n"),
        ("flux.gguf", "flux"),
        ("base [final]", "base [final]"),
    ],
)
def test_a_stem_has_no_folder_hash_or_suffix(name: str, short: str) -> None:
    """A dot within a name, and words in brackets that are no hash, stay."""
    assert stem(name) == short


@pytest.mark.parametrize(
    ("used", "same"),
    [
        ("base", True),
        ("base.safetensors", True),
        ("sdxl/base.safetensors [31e35c80fc]", True),
        ("another", False),
        ("base2", False),
        (None, True),
        ("", True),
    ],
)
@pytest.mark.parametrize("config", [txt2img(), img2img()])
def test_models_are_compared_by_stem(config: StageConfig, used: str | None, same: bool) -> None:
    """What the answer does not say is no difference."""
    words = [] if same else [f"model base.safetensors was requested, but {used} was used"]
    assert said(config, sd_model_name=used) == words


@pytest.mark.parametrize(
    ("asked", "info", "features", "same"),
    [
        ("anime", {"sd_vae_name": "anime.vae.pt"}, UNKNOWN, True),
        ("folder/anime.vae.pt", {"sd_vae_name": "anime.vae.pt"}, UNKNOWN, True),
        ("anime.vae.pt", {"sd_vae_name": "other.vae.pt"}, UNKNOWN, False),
        ("anime.vae.pt", {"sd_vae_name": None}, UNKNOWN, False),
        ("anime.vae.pt", {"sd_vae_name": None}, ServerFeatures(product=FORGE), True),
        ("anime.vae.pt", {"sd_vae_name": "x"}, ServerFeatures(product=FORGE), False),
        ("anime.vae.pt", {}, UNKNOWN, True),
        ("Automatic", {"sd_vae_name": "x"}, UNKNOWN, True),
        ("None", {"sd_vae_name": None}, UNKNOWN, True),
        (None, {"sd_vae_name": "x"}, UNKNOWN, True),
    ],
)
def test_vaes_are_compared_where_the_answer_names_one(
    asked: str | None, info: dict[str, Any], features: ServerFeatures, same: bool
) -> None:
    """Forge, which says nothing of them, is taken at its word."""
    assert (said(txt2img(vae=asked), features=features, **info) == []) is same


@pytest.mark.parametrize(
    ("asked", "scheduler", "used", "same"),
    [
        ("Euler a", None, "Euler a", True),
        ("euler A", None, "Euler a", True),
        ("Euler a", None, "Euler", False),
        ("Euler a", None, None, True),
        ("DPM++ 2M Karras", None, "DPM++ 2M", True),
        ("DPM++ 2M SGM Uniform", None, "DPM++ 2M", True),
        ("DPM++ 2M", "Karras", "DPM++ 2M Karras", True),
        ("DPM++ 2M", "Karras", "DPM++ 2M", True),
        ("DPM++ 2M", "Karras", "DPM++ 2M Exponential", False),
        ("DPM++ 2M", None, "DPM++ 2M Karras", False),
        ("DPM++ 2M SDE", None, "DPM++ 2M", False),
        ("DPM++ 2M SDE Karras", None, "DPM++ 2M", False),
        ("DPM++ 2M", None, "DPM++ 2M SDE", False),
    ],
)
def test_a_sampler_may_carry_its_schedule_in_its_name(
    asked: str, scheduler: str | None, used: str | None, same: bool
) -> None:
    """As it did before 1.9; another sampler with the same beginning is a difference."""
    found = said(img2img(sampler=asked, scheduler=scheduler), sampler_name=used)
    assert found == ([] if same else [f"sampler {asked} was requested, but {used} was used"])


@pytest.mark.parametrize(
    ("asked", "used", "same"),
    [
        ("karras", "Karras", True),
        ("sgm_uniform", "SGM Uniform", True),
        ("Align Your Steps", "align_your_steps", True),
        ("Automatic", "Karras", True),
        ("Karras", "Exponential", False),
        ("Karras", "Automatic", False),
        ("Karras", None, True),
    ],
)
def test_schedulers_go_by_name_and_label(asked: str, used: str | None, same: bool) -> None:
    """Automatic leaves the choice to the server."""
    told = {} if used is None else {"Schedule type": used}
    found = said(txt2img(scheduler=asked), told)
    assert found == ([] if same else [f"scheduler {asked} was requested, but {used} was used"])


@pytest.mark.parametrize(("used", "same"), [(2, True), (1, False), (None, True)])
def test_clip_skip_is_compared(used: int | None, same: bool) -> None:
    """Where the answer names one."""
    words = [] if same else [f"clip_skip 2 was requested, but {used} was used"]
    assert said(txt2img(clip_skip=2), clip_skip=used) == words


@pytest.mark.parametrize(
    ("count", "used", "same"),
    [
        (1, [42], True),
        (3, [42, 43, 44], True),
        (1, [42, 43], True),
        (1, [43], False),
        (3, [42, 42, 42], False),
        (3, [42], False),
        (1, [], True),
        (1, None, True),
        (1, "42", True),
    ],
)
@pytest.mark.parametrize("config", [txt2img(), adetailer()])
def test_seeds_are_those_of_the_batch(
    config: StageConfig, count: int, used: object, same: bool
) -> None:
    """One for each image, counted up from the request's."""
    alone = ALONE if isinstance(config, AdetailerConfig) else {}
    found = said(config, count=count, all_seeds=used, **alone)
    wanted = [42 + place for place in range(count)]
    assert [f"seeds {wanted} were requested" in words for words in found] == [True] * (not same)


@pytest.mark.parametrize("config", [txt2img(refiner=REFINER), img2img(refiner=REFINER)])
@pytest.mark.parametrize(
    ("told", "words"),
    [
        (REFINED, []),
        ({"Refiner": "xl/refiner.safetensors"}, []),
        ({}, ["Refiner refiner.safetensors was requested, but the server does not report"]),
        (
            {**REFINED, "Refiner": "base [aa]"},
            ["Refiner refiner.safetensors was requested, but base"],
        ),
        ({**REFINED, "Refiner switch at": 0.5}, ["refiner switch_at 0.8 was requested, but 0.5"]),
        ({**REFINED, "Refiner switch at": "soon"}, []),
    ],
)
def test_a_refiner_leaves_evidence(
    config: StageConfig, told: dict[str, Any], words: list[str]
) -> None:
    """In txt2img and in img2img: its model, and where it took over."""
    found = said(config, told)
    assert len(found) == len(words)
    assert all(map(str.startswith, found, words))


@pytest.mark.parametrize(
    ("config", "told", "missing"),
    [
        (txt2img(refiner=RefinerConfig(model="x/base.ckpt", switch_at=0.8)), {}, []),
        (txt2img(refiner=RefinerConfig(enabled=False, model="refiner")), {}, []),
        (txt2img(refiner=REFINER, hires=HIRES), REFINED, []),
        (txt2img(refiner=REFINER, hires=HIRES), {}, ["Refiner"]),
        (
            txt2img(refiner=REFINER, hires=HiresConfig(scale=2.0, model="refiner")),
            {"Hires checkpoint": "refiner [aa]"},
            [],
        ),
        (
            txt2img(refiner=REFINER, hires=HiresConfig(scale=2.0, model="refiner")),
            REFINED,
            ["Hires checkpoint"],
        ),
        (
            txt2img(refiner=REFINER, hires=HiresConfig(scale=2.0, model="other.ckpt")),
            {**REFINED, "Hires checkpoint": "other [bb]"},
            [],
        ),
        (
            txt2img(refiner=REFINER, hires=HiresConfig(scale=2.0, model="other.ckpt")),
            {"Hires checkpoint": "base [bb]"},
            ["Hires checkpoint", "Refiner"],
        ),
        (txt2img(hires=HiresConfig(enabled=False, scale=2.0, model="other")), {}, []),
        (txt2img(hires=HIRES), {}, []),
    ],
)
def test_refiner_and_hires_need_evidence_where_they_change_the_model(
    config: StageConfig, told: dict[str, Any], missing: list[str]
) -> None:
    """A refiner that is the model at work already leaves none; SD.Next never does."""
    found = said(config, told)
    assert [words.partition(" was ")[0].rpartition(" ")[0] for words in found] == missing
    if not told:
        assert said(config, told, features=ServerFeatures(product=SD_NEXT)) == []


ORDINALS = ("", " 2nd", " 3rd", " 4th", " 5th")


@pytest.mark.parametrize("count", range(1, 6))
def test_each_pass_of_adetailer_leaves_evidence(count: int) -> None:
    """Up to five passes, each under its ordinal; a missing or another one is named."""
    models = [f"model_{place}.pt" for place in range(count)]
    told = {f"ADetailer model{ORDINALS[place]}": name for place, name in enumerate(models)}
    last = f"ADetailer model{ORDINALS[count - 1]}"
    config = adetailer(*models)
    assert said(config, told, **ALONE) == []
    assert said(config, {**told, last: "model_9"}, **ALONE) == [
        f"ADetailer model {models[-1]} was requested in pass {count}, but model_9 was used"
    ]
    del told[last]
    assert said(config, told, **ALONE) == [
        f"ADetailer pass {count} ({models[-1]}) was requested, but did not run"
    ]


@pytest.mark.parametrize(
    ("name", "value"), [("width", 512), ("height", 768), ("steps", 20), ("width", None)]
)
def test_adetailer_alone_throws_the_picture_around_it_away(name: str, value: int | None) -> None:
    """Anything but 128x128 in one step may be the whole image repainted."""
    told = {"ADetailer model": "face.pt"}
    (words,) = said(adetailer("face.pt"), told, **ALONE | {name: value, "sampler_name": "Euler"})
    assert words.startswith(f"ADetailer alone was requested, but the server reports {name} {value}")


def test_an_upscale_says_nothing_to_compare() -> None:
    """Its answer has no info of that kind."""
    assert said(UpscaleConfig(upscaler="Lanczos", factor=2.0), sd_model_name="x") == []


@pytest.mark.parametrize("told", [None, 5, "text", [1], {"Refiner": {"a": 1}}])
def test_odd_parameters_are_no_evidence(told: object) -> None:
    """Whatever they are, they are read without an error."""
    info = {"extra_generation_params": told, "sampler_name": 3, "all_seeds": {}, "clip_skip": []}
    asked = request(txt2img(refiner=REFINER, sampler="Euler"))
    found = AnswerComparison(asked, info, UNKNOWN, str).differences()
    assert any(words.startswith("Refiner") for words in found)


@pytest.mark.parametrize(
    ("config", "size", "wanted"),
    [
        (txt2img(), (0, 0), (512, 768)),
        (txt2img(hires=HIRES), (0, 0), (1024, 1536)),
        (txt2img(hires=HiresConfig(scale=1.3)), (0, 0), (664, 992)),
        (txt2img(hires=HiresConfig(resize_x=1000)), (0, 0), (1000, 1496)),
        (txt2img(hires=HiresConfig(resize_y=1152)), (0, 0), (768, 1152)),
        (txt2img(hires=HiresConfig(resize_x=800, resize_y=800)), (0, 0), (800, 800)),
        (txt2img(hires=HiresConfig(enabled=False, scale=2.0)), (0, 0), (512, 768)),
        (img2img(), (515, 770), (512, 768)),
        (img2img(width=640, height=640), (512, 768), (640, 640)),
        (img2img(width=640), (512, 770), (640, 768)),
        (UpscaleConfig(factor=2.0), (512, 768), (1024, 1536)),
        (UpscaleConfig(factor=1.5), (515, 770), (768, 1152)),
        (UpscaleConfig(factor=1.3333333333), (24, 24), (32, 32)),
        (UpscaleConfig(factor=0.01), (64, 64), (8, 8)),
        (UpscaleConfig(width=1024, height=1024), (512, 768), (1024, 1024)),
        (UpscaleConfig(width=1024, height=1024, crop=True), (512, 768), (1024, 1024)),
        (UpscaleConfig(width=1024, height=1024, crop=False), (512, 768), (1024, 1536)),
        (adetailer("face.pt"), (515, 770), (515, 770)),
    ],
)
def test_sizes_follow_from_the_request(config: StageConfig, size: Size, wanted: Size) -> None:
    """Each stage's own rule, on the grid of 8; any other size is a difference."""
    asked = request(config, size=size)
    assert expected_size(asked) == wanted
    assert size_difference(asked, wanted, {}) is None
    other = (wanted[0] + 8, wanted[1])
    assert size_difference(asked, other, {}) == (
        f"size {wanted[0]}x{wanted[1]} was requested, but {other[0]}x{other[1]} came back"
    )


@pytest.mark.parametrize(
    ("config", "size", "server"),
    [
        (UpscaleConfig(factor=1.3333333333), (24, 48), (24, 56)),
        (txt2img(width=24, height=48, hires=HiresConfig(scale=1.3333333333)), (0, 0), (24, 56)),
    ],
)
def test_a_product_a_hair_below_a_whole_number_may_be_cut(
    config: StageConfig, size: Size, server: Size
) -> None:
    """A server that takes 31.9999999 for 31 comes to 24; nothing smaller is let pass."""
    asked = request(config, size=size)
    assert size_difference(asked, server, {}) is None
    assert size_difference(asked, (server[0], server[1] - 8), {}) is not None


def test_a_hires_that_is_off_lets_no_other_size_pass() -> None:
    """Its scale counts for nothing."""
    asked = request(txt2img(hires=HiresConfig(enabled=False, scale=2.0)))
    assert size_difference(asked, (1024, 1536), {}) is not None


@pytest.mark.parametrize("count", [1, 8])
def test_the_limit_holds_any_honest_answer_and_has_an_end(count: int) -> None:
    """Uncompressed pictures of 16 bits in base64 fit; the largest plan stays below an end."""
    honest = 512 * 768 * 8 * 4 // 3 * count
    assert honest < answer_limit(request(txt2img(), count)) < 2 * honest + MAX_WORDS_BYTES
    huge = txt2img(width=65_536, height=65_536)
    for config in (huge, Txt2ImgConfig(prompt="", seed=1)):
        assert answer_limit(request(config, count)) == MAX_ANSWER_BYTES + MAX_WORDS_BYTES

"""What the scripted WebUI answers to a generating request: plain pictures, and what it used."""

from __future__ import annotations

import base64
import io
import json
import random
import re
from typing import Any, cast

from PIL import Image, ImageColor, ImageDraw, ImageOps, PngImagePlugin

from .webui_faults import Document, fault_document
from .webui_names import (
    DETAILER_BOUNDS,
    DETAILER_VERSION,
    MODULES,
    OPTIONS,
    SAVED,
    Names,
    short_hash,
    stem,
)
from .webui_queue import Job, JobQueue, WebUIError


def decoded_image(data: str) -> Image.Image:
    """The picture in a base64 text; 500 when there is none."""
    try:
        raw = base64.b64decode(data.split(",", 1)[-1], validate=True)
        return Image.open(io.BytesIO(raw)).convert("RGB")
    except (ValueError, OSError) as error:
        raise WebUIError(
            500, fault_document("HTTPException", "", "Invalid encoded image")
        ) from error


def encoded_image(picture: Image.Image, image_format: str, text: str | None) -> str:
    """A picture's bytes in base64, with ``text`` as its PNG ``parameters``."""
    stream = io.BytesIO()
    chunks = PngImagePlugin.PngInfo()
    if text is not None:
        chunks.add_text("parameters", text)
    options: Document = {"pnginfo": chunks, "compress_level": 1} if image_format == "png" else {}
    picture.save(stream, "JPEG" if image_format == "jpg" else image_format.upper(), **options)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def file_name(path: str) -> str:
    """The last part of a path."""
    return path.rpartition("/")[2]


def fits(schema: Document, value: object) -> bool:
    """Whether a field takes a value; null is taken where no default stands."""
    if value is None:
        return "default" not in schema
    types = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list}
    wanted = cast("type[Any] | tuple[type[Any], ...]", types.get(schema.get("type", ""), object))
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        return wanted is object
    if "enum" in schema and value not in schema["enum"]:
        return False
    number = value if isinstance(value, (int, float)) else 0
    above = number > schema.get("exclusiveMinimum", number - 1)
    return bool(schema.get("minimum", number) <= number <= schema.get("maximum", number) and above)


def filled(schema: Document, body: Document) -> Document:
    """The known fields with their defaults; 422 names each that does not fit."""
    fields, problems = schema["properties"], []
    for name in schema.get("required", ()):
        if name not in body:
            message = {"msg": "field required", "type": "value_error.missing"}
            problems.append({"loc": ["body", name], **message})
    for name, one in fields.items():
        if name in body and not fits(one, body[name]):
            kind = f"type_error.{one.get('type')}"
            problems.append({"loc": ["body", name], "msg": "value is not valid", "type": kind})
    if problems:
        raise WebUIError(422, {"detail": problems})
    return {name: body.get(name, one.get("default")) for name, one in fields.items()}


class Painter:
    """Makes what the generating endpoints answer.

    ``options`` are the server's settings; those that are ``saved`` are restored after a request
    that overrides them. ``contents`` are those of files, by stem. Its model puts
    sizes on the next multiples of ``grid`` above.
    """

    def __init__(self, queue: JobQueue, names: Names, fork: str) -> None:
        self.queue, self.names, self.fork = queue, names, fork
        self.options: Document = {**OPTIONS, "sd_model_checkpoint": names.models[0]}
        self.saved = set(SAVED)
        if fork == "forge":
            self.options[MODULES] = []
        self.broken: tuple[str, ...] = ("Missing 4x",)
        self.detects = True
        self.version = "v1.10.1"
        self.detailer_version = DETAILER_VERSION
        self.grid = 1
        self.schemas: Document = {}
        self.hashed: set[str] = {names.models[0]}
        self.contents: dict[str, str] = {}
        self._cache: dict[tuple[Any, ...], Image.Image] = {}
        self._tasks = 0
        self._restored: Document = {}

    def paint(self, endpoint: str, body: Document, job: Job) -> Document:
        """Answer one request of an endpoint, waiting for its turn."""
        if endpoint.startswith("extra"):
            return self._extras(endpoint, body, job)
        name = "Txt2Img" if endpoint == "txt2img" else "Img2Img"
        asked = filled(self.schemas[f"StableDiffusionProcessing{name}"], body)
        scripts = {key.lower(): value for key, value in asked["alwayson_scripts"].items()}
        for script in [*scripts, *filter(None, [asked["script_name"]])]:
            if script.lower() not in self.scripts:
                words = f"Script '{script}' not found"
                raise WebUIError(422, fault_document("HTTPException", "", words))
        if endpoint == "img2img" and asked["init_images"] is None:
            raise WebUIError(404, fault_document("HTTPException", "", "Init image not found"))
        asked["detailer"] = scripts.get("adetailer", {}).get("args", [])
        self._tasks += 1
        job.task = asked["force_task_id"] or f"task({endpoint}-{self._tasks})"
        job.name = f"scripts_{endpoint}"
        with self.queue.enter(job):
            self._restored = {}
            try:
                return self._generated(asked, job, [decoded_image(i) for i in self._inputs(asked)])
            finally:
                self.options.update(self._restored)

    @property
    def scripts(self) -> tuple[str, ...]:
        """The scripts that are there, in lower case."""
        return ("x/y/z plot",) if self.fork == "sdnext" else ("x/y/z plot", "adetailer")

    def failure(self, error: str, words: str) -> WebUIError:
        """An exception inside the server, as its fork reports it."""
        forge = self.fork == "forge"
        return WebUIError(500, {"detail": words} if forge else fault_document(error, words))

    def find(self, asked: str) -> str | None:
        """The file of a model that is there, asked for by stem, file name or title."""
        return next((name for name in self.names.models if stem(name) == stem(asked)), None)

    def _inputs(self, asked: Document) -> list[str]:
        images = asked.get("init_images", [""])
        if not images:
            raise self.failure("IndexError", "list index out of range")
        return cast("list[str]", images if "init_images" in asked else [])

    def _override(self, asked: Document) -> Document:
        """The settings of this request; some of them stay behind."""
        wanted = asked["override_settings"] or {}
        for key in wanted:
            if key not in self.options:
                raise self.failure("KeyError", repr(key))
        used = {**self.options, **wanted}
        model = self.find(str(used["sd_model_checkpoint"]))
        used["sd_model_checkpoint"] = model or self.options["sd_model_checkpoint"]
        if used["sd_vae"] not in ("Automatic", "None", *self.names.vaes):
            used["sd_vae"] = self.options["sd_vae"]
        self.hashed.add(used["sd_model_checkpoint"])
        if MODULES in used:
            used[MODULES] = [f"/models/VAE/{file_name(one)}" for one in used[MODULES]]
        stays = not asked["override_settings_restore_afterwards"]
        self._restored = {
            key: self.options[key]
            for key in wanted
            if key in self.saved and key != MODULES and not stays
        }
        # While the job runs, everyone sees its settings.
        self.options.update({key: used[key] for key in wanted})
        self.saved.update(wanted)
        return used

    def set_options(self, options: Document) -> None:
        """POST /options: set and save them."""
        if MODULES in options:
            paths = [f"/models/VAE/{file_name(one)}" for one in options[MODULES]]
            options = {**options, MODULES: paths}
        self.options.update(options)
        self.saved.update(options)

    def _generated(self, asked: Document, job: Job, inputs: list[Image.Image]) -> Document:
        passes = self._detailer_passes(asked["detailer"])
        alone = bool(passes) and bool(inputs) and asked["detailer"][:2] == [True, True]
        alone = alone and all(isinstance(flag, bool) for flag in asked["detailer"][:2])
        per_image = [asked["steps"], *self._second_pass(asked)]
        if alone:
            per_image = [1, *per_image * len(passes)]
            asked |= {"steps": 1, "width": 128, "height": 128, "sampler_name": "Euler"}
        asked |= {side: -(-asked[side] // self.grid) * self.grid for side in ("width", "height")}
        job.passes = tuple(per_image * asked["n_iter"])
        self.queue.begin(job)
        used = self._override(asked)
        self._check(asked)
        extra = self._evidence(asked, used, passes)
        done = self.queue.advance(job)
        if asked.get("hr_sampler_name") not in (None, *self.names.samplers):
            raise self.failure("HTTPException", "Sampler not found")
        whole = done // len(per_image)
        finished = done == len(job.passes)
        batches = asked["n_iter"] if finished else min(whole + 1, asked["n_iter"])
        seed = random.randrange(2**31) if asked["seed"] == -1 else asked["seed"]
        seeds = [seed + place for place in range(batches * asked["batch_size"])]
        pictures = [
            self._picture(asked, used, one, inputs, passes if alone else None,
                          finished or place < whole * asked["batch_size"])
            for place, one in enumerate(seeds)
        ]  # fmt: skip
        return self._answer(asked, used, seeds, pictures, extra)

    def _second_pass(self, asked: Document) -> list[int]:
        hires = bool(asked.get("enable_hr"))
        return [asked["hr_second_pass_steps"] or asked["steps"]] if hires else []

    def _check(self, asked: Document) -> None:
        if asked["steps"] < 1:
            raise self.failure("ZeroDivisionError", "division by zero")
        self._must_exist(asked.get("refiner_checkpoint"))
        if not asked.get("enable_hr"):
            return
        if asked["denoising_strength"] is None:
            words = "'>' not supported between instances of 'NoneType' and 'int'"
            raise self.failure("TypeError", words)
        if self.fork == "forge" and asked["hr_additional_modules"] is None:
            raise self.failure("TypeError", "argument of type 'NoneType' is not iterable")
        self._must_exist(asked.get("hr_checkpoint_name"))
        known = (None, *self.names.latent_modes, *self.names.upscalers)
        if asked["hr_upscaler"] not in known:
            words = f"could not find upscaler named {asked['hr_upscaler']}"
            raise self.failure("Exception", words)

    def _must_exist(self, model: str | None) -> None:
        if model is not None and self.find(model) is None:
            raise self.failure("Exception", f"Could not find checkpoint with name {model}")

    def _detailer_passes(self, arguments: list[Any]) -> list[Document]:
        """The passes that run; none when a dict has a key or value that is not allowed."""
        dicts = [one for one in arguments if isinstance(one, dict)]
        for key, value in (item for one in dicts for item in one.items()):
            bounds = DETAILER_BOUNDS.get(key)
            if key not in DETAILER_BOUNDS or (bounds and not bounds[0] <= value <= bounds[1]):
                return []
        kept = [one for one in dicts if one.get("ad_tab_enable", True)]
        kept = [one for one in kept if one.get("ad_model", "None") != "None"]
        return [] if arguments[:1] == [False] else kept[: self.options["ad_max_models"]]

    def _short_hash(self, name: str) -> str:
        return short_hash(name, self.contents)

    def _hashes(self, asked: Document, used: Document) -> Document:
        """The hashes of the LoRAs and embeddings that the prompts name."""
        extra: Document = {}
        prompts = [asked["prompt"], asked["hr_prompt"] if asked.get("enable_hr") else ""]
        loras = re.findall(r"<lora:([^:>]+)", " ".join(prompts))
        words = re.findall(r"\w+", f"{asked['prompt']} {asked['negative_prompt']}")
        for key, option, names in (
            ("Lora hashes", "lora_add", [one for one in loras if one in self.names.loras]),
            ("TI hashes", "textual_inversion_add", set(words).intersection(self.names.embeddings)),
        ):
            hashes = [f"{one}: {self._short_hash(one)}" for one in names if one not in self.broken]
            if hashes and used[f"{option}_hashes_to_infotext"]:
                extra[key] = ", ".join(hashes)
        return extra

    def _evidence(self, asked: Document, used: Document, passes: list[Document]) -> Document:
        extra = self._hashes(asked, used)
        base: str = used["sd_model_checkpoint"]
        if asked.get("scheduler") in self.names.schedulers[1:]:
            extra["Schedule type"] = asked["scheduler"]
        if asked.get("enable_hr"):
            extra |= {"Hires upscale": asked["hr_scale"], "Hires upscaler": asked["hr_upscaler"]}
            if self.fork == "forge":
                extra["Hires CFG Scale"] = asked["hr_cfg"]
            if asked.get("hr_checkpoint_name"):
                base = self.find(asked["hr_checkpoint_name"]) or base
                extra["Hires checkpoint"] = f"{stem(base)} [{self._short_hash(base)}]"
        hires_pass = used["hires_fix_refiner_pass"]
        if hires_pass != "second pass":
            base = used["sd_model_checkpoint"]
        refiner, switch = asked.get("refiner_checkpoint"), asked.get("refiner_switch_at")
        if refiner and stem(refiner) != stem(base) and switch != 1.0:
            extra["Refiner"] = f"{stem(refiner)} [{self._short_hash(refiner)}]"
            extra["Refiner switch at"] = switch
            if asked.get("enable_hr") and hires_pass != "second pass":
                extra["Hires refiner"] = hires_pass
        for place, one in enumerate(passes):
            suffix = ("", " 2nd", " 3rd", *(f" {n}th" for n in range(4, 20)))[place]
            extra[f"ADetailer model{suffix}"] = one["ad_model"]
            extra[f"ADetailer confidence{suffix}"] = one.get("ad_confidence", 0.3)
        return extra | ({"ADetailer version": self.detailer_version} if passes else {})

    def _picture(
        self, asked: Document, used: Document, seed: int, inputs: list[Image.Image],
        passes: list[Document] | None, finished: bool,
    ) -> Image.Image:  # fmt: skip
        # The settings of the server change the picture, and its defaults do not.
        shift = sum(map(ord, "".join(self._unusual(used))))
        hue = (seed * 47 + shift) % 360
        colour = ImageColor.getrgb(f"hsl({hue},60%,{30 + seed % 5 * 10}%)")
        if passes is not None:
            known = [one for one in passes if one["ad_model"] in self.names.detectors]
            found = known and self.detects and finished
            return detailed(inputs[0], colour) if found else inputs[0]
        size = (asked["width"] // 8 * 8, asked["height"] // 8 * 8)
        if finished and asked.get("enable_hr"):
            size = hires_size(asked)
        picture = Image.new("RGB", size, colour)
        if inputs:
            before = inputs[0].resize(size)
            picture = Image.blend(before, picture, asked["denoising_strength"])
            if asked["mask"]:
                mask = decoded_image(asked["mask"]).convert("L").resize(size)
                picture = Image.composite(picture, before, mask)
        grey = Image.new("RGB", size, (128, 128, 128))
        return picture if finished else Image.blend(picture, grey, 0.5)

    def _unusual(self, used: Document) -> list[str]:
        """The options that change a picture, where they are not the defaults."""
        keys = ("sd_vae", "CLIP_stop_at_last_layers", "eta_noise_seed_delta")
        values = [str(used[key]) for key in keys if used[key] != OPTIONS[key]]
        return values + [file_name(one) for one in used.get(MODULES, ())]

    def _answer(
        self, asked: Document, used: Document, seeds: list[int],
        pictures: list[Image.Image], extra: Document,
    ) -> Document:  # fmt: skip
        model = used["sd_model_checkpoint"]
        sampler = self._sampler(asked["sampler_name"] or asked["sampler_index"])
        schedule = asked.get("scheduler") or "Automatic"
        if schedule not in self.names.schedulers:
            schedule = "Automatic"
        told = f"Schedule type: {schedule}, " if "scheduler" in asked else ""  # Since 1.9.
        modules = "".join(
            f"Module {place}: {stem(one)}, " for place, one in enumerate(used.get(MODULES, ()), 1)
        )
        texts = [
            f"{asked['prompt']}\nNegative prompt: {asked['negative_prompt']}\n"
            f"Steps: {asked['steps']}, Sampler: {sampler}, CFG scale: {asked['cfg_scale']}, "
            f"{told}Seed: {seed}, Size: {asked['width']}x{asked['height']}, "
            f"Model hash: {self._short_hash(model)}, Model: {stem(model)}, {modules}"
            f"Version: {self.version}"
            for seed in seeds
        ]
        if asked["save_images"] and len(pictures) > 1:
            pictures, texts = [pictures[0], *pictures], [texts[0], *texts]
        vae = None if used["sd_vae"] in ("Automatic", "None") else used["sd_vae"]
        kept = ("prompt", "negative_prompt", "width", "height", "cfg_scale", "steps", "batch_size")
        info = {
            **{key: asked[key] for key in (*kept, "denoising_strength", "restore_faces")},
            "all_prompts": [asked["prompt"]] * len(seeds),
            "all_negative_prompts": [asked["negative_prompt"]] * len(seeds),
            "seed": seeds[0], "all_seeds": seeds, "sampler_name": sampler,
            "sd_model_name": stem(model), "sd_model_hash": self._short_hash(model),
            "sd_vae_name": vae, "sd_vae_hash": vae and self._short_hash(vae),
            "extra_generation_params": extra, "infotexts": texts,
            "index_of_first_image": len(pictures) - len(seeds), "styles": asked["styles"] or [],
            "job_timestamp": self.queue.state["job_timestamp"],
            "clip_skip": used["CLIP_stop_at_last_layers"], "version": self.version,
        }  # fmt: skip
        stamped = used["enable_pnginfo"]
        images = [
            encoded_image(picture, used["samples_format"], text if stamped else None)
            for picture, text in zip(pictures, texts, strict=True)
        ]
        echo = {key: value for key, value in asked.items() if key != "detailer"}
        return {
            "images": images if asked["send_images"] else [],
            "parameters": echo | ({"init_images": None} if "init_images" in echo else {}),
            "info": json.dumps(info),
        }

    def _sampler(self, asked: str) -> str:
        return asked if asked in ("Euler", *self.names.samplers) else "DPM++ 2M"

    def _extras(self, endpoint: str, body: Document, job: Job) -> Document:
        single = endpoint == "extra-single-image"
        name = f"Extras{'Single' if single else 'Batch'}Image{'' if single else 's'}Request"
        asked = filled(self.schemas[name], body)
        sent = [asked["image"]] if single else [one["data"] for one in asked["imageList"]]
        pictures = [decoded_image(data) for data in sent]
        job.name, job.passes = "Upscale", (4,)
        with self.queue.enter(job):
            self.queue.begin(job)
            for key in ("upscaler_1", "upscaler_2"):
                if asked[key] not in self.names.upscalers:
                    words = f"could not find upscaler named {asked[key]}"
                    raise self.failure("AssertionError", words)
            large = [self._upscaled(asked, picture, job) for picture in pictures]
        images = [encoded_image(picture, self.options["samples_format"], None) for picture in large]
        html = f"<p>Postprocess upscaler: {asked['upscaler_1']}</p>"
        return {"html_info": html, **({"image": images[0]} if single else {"images": images})}

    def _upscaled(self, asked: Document, picture: Image.Image, job: Job) -> Image.Image:
        """A true upscaler also inverts the picture, which tells it from plain resizing.

        What was made is kept, half made or not; for a target size its key holds no factor.
        """
        keys = ["upscaler_1", "resize_mode", "upscaling_resize_w", "upscaling_resize_h"]
        keys += ["upscaling_crop"] if asked["resize_mode"] == 1 else ["upscaling_resize"]
        key = (picture.tobytes(), *(asked[name] for name in keys))
        if key not in self._cache:
            done = self.queue.advance(job) == len(job.passes)
            size = upscaled_size(asked, picture)
            plain = asked["upscaler_1"] in ("None", "Lanczos", "Nearest", *self.broken)
            cover = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
            for restorer in ("gfpgan", "codeformer"):
                if asked[f"{restorer}_visibility"] and restorer not in self.broken:
                    cover = detailed(cover, (90, 60, 30))
            while len(self._cache) >= self.options["upscaling_max_images_in_cache"]:
                del self._cache[next(iter(self._cache))]
            self._cache[key] = cover if plain or not done else ImageOps.invert(cover)
        return self._cache[key]


def detailed(picture: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    """A picture with another face in its middle."""
    copy = picture.copy()
    width, height = copy.size
    box = (width * 3 // 8, height * 3 // 8, width * 5 // 8, height * 5 // 8)
    ImageDraw.Draw(copy).ellipse(box, fill=cast("tuple[int, int, int]", colour))
    return copy


def hires_size(asked: Document) -> tuple[int, int]:
    """The size of the second pass: by factor, by one side, or cover and crop."""
    width, height = asked["width"], asked["height"]
    wide, high = asked["hr_resize_x"], asked["hr_resize_y"]
    if not wide and not high:
        wide, high = width * asked["hr_scale"], height * asked["hr_scale"]
    wide, high = wide or width * high / height, high or height * wide / width
    return int(wide) // 8 * 8, int(high) // 8 * 8


def upscaled_size(asked: Document, picture: Image.Image) -> tuple[int, int]:
    """The size that extras give: a factor, or a size covered and (with crop) cut to."""
    factor = asked["upscaling_resize"]
    if asked["resize_mode"] == 1:
        wanted = asked["upscaling_resize_w"], asked["upscaling_resize_h"]
        if asked["upscaling_crop"]:
            return wanted[0] // 8 * 8, wanted[1] // 8 * 8
        factor = max(wanted[0] / picture.width, wanted[1] / picture.height)
    return int(picture.width * factor) // 8 * 8, int(picture.height * factor) // 8 * 8

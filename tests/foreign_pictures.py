"""Images with metadata as other programs write it, made from their published formats."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

A1111 = """a red house, (wooden:1.2)
by the sea
Negative prompt: blurry, low quality
Steps: 28, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 1234567890, Size: 832x1216, Model hash: 31e35c80fc, Model: sd_xl_base_1.0, VAE hash: 63aeecb90f, VAE: sdxl_vae.safetensors, Denoising strength: 0.4, Clip skip: 2, Hires upscale: 1.5, Hires steps: 12, Hires upscaler: 4x-UltraSharp, Lora hashes: "detail: aaaa, style: bbbb", ADetailer model: face_yolov8n.pt, ADetailer denoising strength: 0.35, ADetailer version: 24.11.1, Version: v1.10.1"""  # noqa: E501 - one line there
FORGE = """a lighthouse
Steps: 20, Sampler: Euler, Schedule type: Simple, CFG scale: 1, Distilled CFG Scale: 3.5, Seed: 7, Size: 896x1152, Model: flux1-dev-bnb-nf4-v2, Version: f2.0.1v1.10.1-previous-664-gd557aef9, Module 1: ae, Module 2: t5xxl_fp16"""  # noqa: E501 - the same
COMFYUI: dict[str, Any] = {
    "3": {"class_type": "KSampler", "inputs": {
        "seed": 156680208700286, "steps": 20, "cfg": 8.0, "sampler_name": "dpmpp_2m",
        "scheduler": "karras", "denoise": 1.0, "model": ["10", 0], "positive": ["6", 0],
        "negative": ["7", 0], "latent_image": ["5", 0]}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "v1-5-pruned.ckpt"}},
    "5": {"class_type": "EmptyLatentImage",
          "inputs": {"width": 512, "height": 768, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["20", 0], "clip": ["10", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "text, watermark", "clip": ["10", 1]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["11", 0], "vae": ["4", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x", "images": ["8", 0]}},
    "10": {"class_type": "LoraLoader", "inputs": {
        "lora_name": "d.safetensors", "strength_model": 1.0, "model": ["4", 0], "clip": ["4", 1]}},
    "11": {"class_type": "KSampler", "inputs": {
        "seed": 1, "steps": 9, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal",
        "denoise": 0.5, "model": ["10", 0], "positive": ["6", 0], "negative": ["7", 0],
        "latent_image": ["3", 0]}},
    "20": {"class_type": "PrimitiveString", "inputs": {"value": "a galaxy in a bottle"}},
}  # fmt: skip
FLUX: dict[str, Any] = {
    "13": {"class_type": "SamplerCustomAdvanced", "inputs": {
        "noise": ["25", 0], "guider": ["22", 0], "sampler": ["16", 0], "sigmas": ["17", 0],
        "latent_image": ["27", 0]}},
    "12": {"class_type": "UNETLoader", "inputs": {"unet_name": "flux1-dev.safetensors"}},
    "16": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
    "17": {"class_type": "BasicScheduler", "inputs": {
        "scheduler": "simple", "steps": 22, "denoise": 1.0, "model": ["12", 0]}},
    "22": {"class_type": "BasicGuider",
           "inputs": {"model": ["12", 0], "conditioning": ["26", 0]}},
    "25": {"class_type": "RandomNoise", "inputs": {"noise_seed": 219670278747233}},
    "26": {"class_type": "FluxGuidance", "inputs": {"guidance": 3.5, "conditioning": ["6", 0]}},
    "27": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 1024, "height": 1024}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cute anime girl"}},
}  # fmt: skip
INVOKEAI: dict[str, Any] = {
    "generation_mode": "sdxl_txt2img", "positive_prompt": "a castle", "negative_prompt": "fog",
    "width": 1024, "height": 1024, "seed": 3371852042, "cfg_scale": 5.5, "steps": 30,
    "scheduler": "dpmpp_2m_sde_k", "app_version": "5.6.0",
    "model": {"key": "k", "hash": "blake3:1", "name": "juggernautXL", "base": "sdxl",
              "type": "main"},
    "loras": [{"model": {"name": "detail", "type": "lora"}, "weight": 0.75}],
}  # fmt: skip
FOOOCUS: dict[str, Any] = {
    "adm_guidance": "(1.5, 0.8, 0.3)", "base_model": "juggernautXL_v8Rundiffusion",
    "base_model_hash": "aeb7e9e689", "clip_skip": 2, "full_negative_prompt": ["ugly", "bad"],
    "full_prompt": ["cinematic still a fox", "a fox, sharp"], "guidance_scale": 4,
    "loras": [["offset.safetensors", 0.1, "4852686128"]], "metadata_scheme": "fooocus",
    "negative_prompt": "bad", "performance": "Speed", "prompt": "a fox",
    "prompt_expansion": "a fox, sharp", "refiner_model": "None", "refiner_switch": 0.5,
    "resolution": "(1152, 896)", "sampler": "dpmpp_2m_sde_gpu", "scheduler": "karras",
    "seed": "7117026233236609449", "sharpness": 2, "steps": 30, "styles": "['Fooocus V2']",
    "vae": "Default (model)", "version": "Fooocus v2.5.5",
}  # fmt: skip


def png_with(path: Path, texts: dict[str, str], *, packed: bool = False) -> Path:
    """A small PNG with these texts."""
    info = PngImagePlugin.PngInfo()
    for keyword, text in texts.items():
        info.add_text(keyword, text, zip=packed)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


def with_comment(path: Path, text: str, tag: int = 0x9286) -> Path:
    """A small JPEG or WebP with a text in EXIF: a UserComment as WebUIs write it, or another."""
    exif = Image.Exif()
    if tag == 0x9286:
        exif.get_ifd(0x8769)[tag] = b"UNICODE\0" + text.encode("utf-16-be")
    else:
        exif[tag] = text
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, path.suffix[1:], exif=exif)
    path.write_bytes(stream.getvalue())
    return path


def made_by(tool: str, folder: Path) -> Path:
    """An image of one of the programs."""
    text = json.dumps
    match tool:
        case "a1111":
            return png_with(folder / "i.png", {"parameters": A1111})
        case "a1111-jpeg":
            return with_comment(folder / "i.jpeg", A1111)
        case "a1111-webp":
            return with_comment(folder / "i.webp", A1111)
        case "forge":
            return png_with(folder / "i.png", {"parameters": FORGE}, packed=True)
        case "comfyui":
            return png_with(folder / "i.png", {"prompt": text(COMFYUI), "workflow": "{}"})
        case "comfyui-webp":
            return with_comment(folder / "i.webp", f"prompt:{text(COMFYUI)}", 0x010F)
        case "flux":
            return png_with(folder / "i.png", {"prompt": text(FLUX)})
        case "invokeai":
            return png_with(folder / "i.png", {"invokeai_metadata": text(INVOKEAI)})
        case "fooocus":
            return png_with(folder / "i.png", {"parameters": text(FOOOCUS)})
        case _:
            return with_comment(folder / "i.jpeg", text(FOOOCUS))

"""The configuration that is measured: one stage, unless more are asked for."""

from __future__ import annotations

from typing import Any

MODEL = "base"
SAMPLER = "Euler a"
STEPS = 20
CFG_SCALE = 7.0
PROMPT = "a lighthouse at dusk"


def configuration(images: int, size: int, *, steps: int = STEPS, **others: Any) -> dict[str, Any]:
    """So many images of ``size`` x ``size`` pixels; ``others`` are further keys and tables."""
    stage = {"model": MODEL, "sampler": SAMPLER, "steps": steps, "cfg_scale": CFG_SCALE}
    return {
        "name": "benchmark",
        "prompt": PROMPT,
        "seed": 1,
        "images": images,
        "txt2img": stage | {"width": size, "height": size},
        **others,
    }

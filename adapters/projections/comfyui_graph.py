"""Settings in a graph of ComfyUI, found from the node that samples."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Inputs = Mapping[str, Any]
_TEXTS = ("text", "text_g", "t5xxl", "clip_l", "prompt", "string", "value")
_MODELS = ("ckpt_name", "unet_name", "model_name", "model_path")
_SAMPLING: Mapping[str, tuple[str, ...]] = {
    "seed": ("seed", "noise_seed", "value"),
    "steps": ("steps", "value"),
    "cfg_scale": ("cfg",),
    "distilled_cfg_scale": ("guidance",),
    "sampler": ("sampler_name",),
    "scheduler": ("scheduler",),
    "denoise": ("denoise",),
}
_OTHER_BRANCHES = (
    "positive",
    "negative",
    "conditioning",
    "latent_image",
    "samples",
    "model",
    "vae",
)


class ComfyGraph:
    """The graph as ComfyUI's API takes it: by node id, ``class_type`` and ``inputs``.

    An input is a value or a link ``[node id, output]``. Whatever else a file holds is left out.
    """

    def __init__(self, document: Any) -> None:
        nodes = document.items() if isinstance(document, Mapping) else ()
        self._inputs: dict[str, Inputs] = {
            key: inputs
            for key, node in nodes
            if isinstance(node, Mapping) and isinstance(inputs := node.get("inputs"), Mapping)
        }

    def samplers(self) -> list[str]:
        """The nodes that sample, those that start from an empty image first."""
        found = [key for key, inputs in self._inputs.items() if _is_sampler(inputs)]
        others = set(found)
        first = [
            key for key in found if not others & set(self._before(key, ("latent_image", "samples")))
        ]
        return first + [key for key in found if key not in first]

    def settings(self, sampler: str) -> dict[str, Any]:
        """What a node samples with, by configuration key, in ComfyUI's names."""
        inputs = self._inputs[sampler]
        near = [name for name in inputs if name not in _OTHER_BRANCHES]
        found = {key: self._first(sampler, near, names) for key, names in _SAMPLING.items()}
        for key in ("width", "height"):
            found[key] = self._first(sampler, ("latent_image", "samples"), (key,))
        found["model"] = self._first(sampler, ("model", "guider"), _MODELS)
        found["prompt"] = self._text(sampler, ("positive", "conditioning"))
        found["negative_prompt"] = self._text(sampler, ("negative",))
        return {key: value for key, value in found.items() if value is not None}

    def _text(self, sampler: str, names: Sequence[str]) -> str | None:
        """The first text before an input of a sampler, or of the guider that it uses."""
        guider = self._link(self._inputs[sampler].get("guider"))
        for node in filter(None, (sampler, guider)):
            text = self._first(node, names, _TEXTS)
            if isinstance(text, str):
                return text
        return None

    def _first(self, node: str, names: Sequence[str], keys: Sequence[str]) -> Any:
        """The value of one of ``keys`` at ``node``, or at the nearest node before ``names``."""
        own = self._inputs[node]
        places: list[Inputs] = [{name: own[name] for name in names if name in own}]
        places += [self._inputs[key] for key in self._before(node, names)]
        for inputs in places:
            for key in keys:
                if isinstance(inputs.get(key), str | int | float) and (
                    key != "value" or inputs is not own
                ):
                    return inputs[key]
        return None

    def _before(self, node: str, names: Sequence[str]) -> Iterator[str]:
        """The nodes that inputs of a node are made from, the nearest first, each once."""
        own = self._inputs[node]
        waiting = deque(key for name in names if (key := self._link(own.get(name))) is not None)
        seen: set[str] = set()
        while waiting:
            key = waiting.popleft()
            if key not in seen:
                seen.add(key)
                yield key
                links = map(self._link, self._inputs[key].values())
                waiting.extend(link for link in links if link is not None)

    def _link(self, value: Any) -> str | None:
        if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int):
            key = str(value[0])
            return key if key in self._inputs else None
        return None


def _is_sampler(inputs: Inputs) -> bool:
    """A KSampler of any kind, or the node that takes sampler, sigmas and guider from others."""
    return {"steps", "sampler_name"} <= inputs.keys() or {"sampler", "sigmas"} <= inputs.keys()

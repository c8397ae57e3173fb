"""Compares the images and used settings of one stage of two runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ....events.log.storage import open_regular
from ....events.model import Artifact
from ....statemachine.files.recorded_files import check_file
from ...backends.infotext_settings import infotext_values
from ...text import Range, ranges_of
from .recorded import AnsweredImage, RecordedRun
from .values import Difference, differences

NOISE: Mapping[str, str] = {
    "job_timestamp": "the time on the server",
    "infotext": "repeats the other settings; its own keys are compared by themselves",
}
"""Keys of an answer that are not compared, and why."""
_MOST_BYTES = 256 * 1024 * 1024
"""Larger files are not compared by their pixels."""
_OF_BATCH = {
    "all_seeds": "seed",
    "all_subseeds": "subseed",
    "all_prompts": "prompt",
    "all_negative_prompts": "negative_prompt",
    "infotexts": "infotext",
}
"""Keys that hold one value for each image of a batch, and their names for a single image."""


class UsedDifference(Difference, frozen=True, kw_only=True):
    """A used setting that differs, and the images for which it does."""

    images: tuple[Range, ...]


class ImageComparison(msgspec.Struct, frozen=True, kw_only=True):
    """The images of one stage, as ranges of indexes.

    Images are compared by the digest of their source. Of the ``different`` ones, those with
    equal requests are also in ``same_request`` (other pixels), ``same_pixels`` (another file
    with the same pixels) or ``not_looked_at`` (pixels that cannot be compared). Of the
    ``equal`` ones, those with different requests are also in ``other_request``. An image
    without a recorded request is in none of these four.
    """

    equal: tuple[Range, ...]
    different: tuple[Range, ...]
    only_left: tuple[Range, ...]
    only_right: tuple[Range, ...]
    same_request: tuple[Range, ...]
    same_pixels: tuple[Range, ...]
    not_looked_at: tuple[Range, ...]
    other_request: tuple[Range, ...]


class StageAnswers(msgspec.Struct, frozen=True, kw_only=True):
    """The answers of one stage in both runs.

    ``left_out`` names keys that differ but do not count, with the reason.
    """

    used: tuple[UsedDifference, ...]
    left_out: Mapping[str, str]
    images: ImageComparison


def compare_answers(
    left: RecordedRun, left_id: str, right: RecordedRun, right_id: str
) -> StageAnswers:
    """Compare a stage of one run with a stage of another; holds one image of each at a time."""
    ours, theirs = left.finished(left_id), right.finished(right_id)
    both = sorted(ours.keys() & theirs.keys())
    images, used = _ImageTally(left.folder, right.folder), _UsedTally()
    for index, one, other in zip(
        both, left.images(left_id, both), right.images(right_id, both), strict=True
    ):
        images.compare(index, one, other)
        if one.info is not None and other.info is not None:
            used.compare(index, _info_of_one(one), _info_of_one(other))
    images.indexes["only_left"] = sorted(ours.keys() - theirs.keys())
    images.indexes["only_right"] = sorted(theirs.keys() - ours.keys())
    return StageAnswers(used=used.found(), left_out=used.left_out, images=images.found())


def _info_of_one(image: AnsweredImage) -> dict[str, Any]:
    """The ``info`` of one image of a batch."""
    info = dict(image.info or {})
    for name, singular in _OF_BATCH.items():
        values = info.get(name)
        if isinstance(values, list) and len(values) >= image.batch_size:
            info[singular] = values[image.place]
            del info[name]
    return info


class _ImageTally:
    """The indexes of the images by what the comparison found."""

    def __init__(self, left: Path, right: Path) -> None:
        self._left, self._right = left, right
        self.indexes: dict[str, list[int]] = {
            name: [] for name in ImageComparison.__struct_fields__
        }

    def compare(self, index: int, left: AnsweredImage, right: AnsweredImage) -> None:
        equal = left.artifact.source_sha256 == right.artifact.source_sha256
        self.indexes["equal" if equal else "different"].append(index)
        if left.request_sha256 is None or right.request_sha256 is None:
            return
        same_request = left.request_sha256 == right.request_sha256
        if equal and not same_request:
            self.indexes["other_request"].append(index)
        elif not equal and same_request:
            self.indexes[self._pixel_result(left.artifact, right.artifact)].append(index)

    def _pixel_result(self, left: Artifact, right: Artifact) -> str:
        """The list for an image whose equal requests gave different files."""
        one, other = _read_image(self._left, left), _read_image(self._right, right)
        if one is None or other is None:
            return "not_looked_at"
        # It loads Pillow, and most comparisons need no pixel.
        from ...pixel_comparison import same_pixels  # noqa: PLC0415 - see above

        same = same_pixels(one, other)
        if same is None:
            return "not_looked_at"
        return "same_pixels" if same else "same_request"

    def found(self) -> ImageComparison:
        return ImageComparison(**{name: ranges_of(all_) for name, all_ in self.indexes.items()})


def _read_image(folder: Path, image: Artifact) -> bytes | None:
    """The bytes of an image of a run; None if the file is missing, altered or very large."""
    if check_file(folder, image.path, image.sha256) is not None:
        return None
    try:
        with open_regular(folder / image.path) as stream:
            data = stream.read(_MOST_BYTES + 1)
    except OSError:
        return None
    return data if len(data) <= _MOST_BYTES else None


class _UsedTally:
    """Differences by key and pair of values, with the indexes of their images."""

    def __init__(self) -> None:
        self._seen: dict[bytes, tuple[Difference, list[int]]] = {}
        self.left_out: dict[str, str] = {}

    def compare(self, index: int, left: Mapping[str, Any], right: Mapping[str, Any]) -> None:
        found = [*differences(left, right), *_infotext_differences(left, right)]
        if _has_no_variation(left) and _has_no_variation(right):
            found = [one for one in found if one.key != "subseed"]
        counting = [one for one in found if one.key not in NOISE]
        if not counting:
            counting = [one for one in found if one.key == "infotext"]
        for one in found:
            if one.key in NOISE and one not in counting:
                self.left_out[one.key] = NOISE[one.key]
        for one in counting:
            self._seen.setdefault(msgspec.json.encode(one), (one, []))[1].append(index)

    def found(self) -> tuple[UsedDifference, ...]:
        ordered = sorted(self._seen.values(), key=lambda one: (one[0].key, one[1][0]))
        return tuple(
            UsedDifference(key=one.key, left=one.left, right=one.right, images=ranges_of(indexes))
            for one, indexes in ordered
        )


def _has_no_variation(info: Mapping[str, Any]) -> bool:
    """Whether the subseed, which a server draws for each request, had no effect."""
    return not info.get("subseed_strength")


def _infotext_differences(
    left: Mapping[str, Any], right: Mapping[str, Any]
) -> Iterator[Difference]:
    """What only the infotexts tell, by their keys: ENSD, versions, hashes."""
    texts = [info.get("infotext", info.get("infotexts")) for info in (left, right)]
    one, other = (
        infotext_values({"infotexts": [text] if isinstance(text, str) else text}) for text in texts
    )
    told = {str(value) for found in differences(left, right) for value in (found.left, found.right)}
    for found in differences(one, other):
        # What a field of the answer tells as well is reported under the name of that field.
        if not {str(found.left), str(found.right)} <= told:
            yield msgspec.structs.replace(found, key=f"infotext: {found.key}")

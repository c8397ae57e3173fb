"""Compares the images and used settings of one stage of two runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ....events.model import Artifact, CallCompleted, CallRequested, StageEvent
from ....events.result import artifact_in
from ...backends.infotext_settings import infotext_values
from .pixels import PictureFiles, same_pixels
from .recorded import RecordedRun
from .values import Difference, Row, Rows, differences

NOISE: Mapping[str, str] = {
    "job_timestamp": "the time on the server",
    "infotext": "repeats the other settings; its own keys are compared by themselves",
}
"""Keys of an answer that are not compared, and why."""
_OF_BATCH = {
    "all_seeds": "seed",
    "all_subseeds": "subseed",
    "all_prompts": "prompt",
    "all_negative_prompts": "negative_prompt",
    "infotexts": "infotext",
}
"""Keys that hold one value for each image of a batch, and their names for a single image."""
_AT_ONCE = 256
_MOST_BYTES = 8 * 1024 * 1024
_ROW_BYTES = 64


class UsedDifference(Difference, frozen=True, kw_only=True):
    """A used setting that differs, and the images for which it does."""

    images: tuple[Row, ...]


class ImageComparison(msgspec.Struct, frozen=True, kw_only=True):
    """The images of one stage, as ranges of indexes.

    Images are compared by the digest of their source. Of the ``different`` ones, those with
    equal requests are also in ``same_request`` (other pixels), ``same_pixels`` (another file
    with the same pixels) or ``not_looked_at`` (pixels that cannot be compared). Of the
    ``equal`` ones, those with different requests are also in ``other_request``. An image
    without a recorded request is in none of these four.
    """

    equal: tuple[Row, ...]
    different: tuple[Row, ...]
    only_left: tuple[Row, ...]
    only_right: tuple[Row, ...]
    same_request: tuple[Row, ...]
    same_pixels: tuple[Row, ...]
    not_looked_at: tuple[Row, ...]
    other_request: tuple[Row, ...]


class StageAnswers(msgspec.Struct, frozen=True, kw_only=True):
    """The answers of one stage in both runs.

    ``left_out`` names keys that differ but do not count, with the reason. ``not_listed`` counts,
    by image, the differences beyond those in ``used``.
    """

    used: tuple[UsedDifference, ...]
    not_listed: int
    left_out: Mapping[str, str]
    images: ImageComparison


def compare_answers(
    left: RecordedRun, left_id: str, right: RecordedRun, right_id: str
) -> StageAnswers:
    """Compare a stage of one run with a stage of another, in bounded memory."""
    used, images = _UsedTally(), _ImageTally(left.folder, right.folder)
    pairs = _paired(_finished(left, left_id), _finished(right, right_id))
    while chunk := list(islice(pairs, _AT_ONCE)):
        both = [pair for pair in chunk if pair.left is not None and pair.right is not None]
        left_images = _LoggedImage.of(left, left_id, [(one.image, one.left) for one in both])
        right_images = _LoggedImage.of(right, right_id, [(one.image, one.right) for one in both])
        for pair in chunk:
            one, other = left_images.get(pair.image), right_images.get(pair.image)
            if one is None or other is None:
                images.only(pair)
            else:
                images.compare(pair.image, one, other)
                used.compare(pair.image, one.info, other.info)
    return StageAnswers(
        used=used.found(),
        not_listed=used.not_listed,
        left_out=used.left_out,
        images=images.found(),
    )


class _Pair(NamedTuple):
    """An image index, and the sequence number of its record in each run."""

    image: int
    left: int | None
    right: int | None


def _finished(run: RecordedRun, stage_id: str) -> Mapping[int, int]:
    stage = run.folded(stage_id)
    return stage.finished if stage is not None else {}


def _paired(left: Mapping[int, int], right: Mapping[int, int]) -> Iterator[_Pair]:
    """Every index that either run has, in order."""
    for index in sorted({*left, *right}):
        yield _Pair(index, left.get(index), right.get(index))


class _LoggedImage(NamedTuple):
    """The log's records of one image; ``info`` is None if its answer is not recorded."""

    artifact: Artifact
    request: str | None
    info: Mapping[str, Any] | None

    @classmethod
    def of(
        cls, run: RecordedRun, stage_id: str, wanted: list[tuple[int, int | None]]
    ) -> dict[int, _LoggedImage]:
        """The images by index; ``wanted`` holds each index with its record."""
        table = run.requests.get(stage_id, {})
        asked = {index: seq for index, _ in wanted if (seq := table.get(index)) is not None}
        requests = dict(zip(asked, run.timeline.select(asked.values()), strict=True))
        records = run.timeline.select(seq for _, seq in wanted if seq is not None)
        return {
            index: cls._in(event, index, requests.get(index))
            for (index, _), event in zip(wanted, records, strict=True)
        }

    @classmethod
    def _in(cls, event: StageEvent, index: int, request: StageEvent | None) -> _LoggedImage:
        digest = request.request_sha256 if isinstance(request, CallRequested) else None
        artifact = artifact_in(event, index)
        if not isinstance(event, CallCompleted):
            return cls(artifact, digest, None)
        return cls(artifact, digest, _info_of_one(event, event.artifacts.index(artifact)))


def _info_of_one(event: CallCompleted, place: int) -> dict[str, Any]:
    """The ``info`` of the image at this position of its batch."""
    info = dict(event.info)
    for name, singular in _OF_BATCH.items():
        values = info.get(name)
        if isinstance(values, list) and len(values) >= len(event.artifacts):
            info[singular] = values[place]
            del info[name]
    return info


class _ImageTally:
    def __init__(self, left: Path, right: Path) -> None:
        self._left, self._right = PictureFiles(left), PictureFiles(right)
        self._rows = {name: Rows() for name in ImageComparison.__struct_fields__}

    def only(self, pair: _Pair) -> None:
        self._rows["only_right" if pair.left is None else "only_left"].add(pair.image)

    def compare(self, index: int, left: _LoggedImage, right: _LoggedImage) -> None:
        equal = left.artifact.source_sha256 == right.artifact.source_sha256
        self._rows["equal" if equal else "different"].add(index)
        if left.request is None or right.request is None:
            return
        if equal and left.request != right.request:
            self._rows["other_request"].add(index)
        elif not equal and left.request == right.request:
            self._rows[self._pixel_result(left.artifact, right.artifact)].add(index)

    def _pixel_result(self, left: Artifact, right: Artifact) -> str:
        """The list for an image whose equal requests gave different files."""
        one, other = self._left.read(left), self._right.read(right)
        same = None if one is None or other is None else same_pixels(one, other)
        if same is None:
            return "not_looked_at"
        return "same_pixels" if same else "same_request"

    def found(self) -> ImageComparison:
        return ImageComparison(**{name: rows.rows() for name, rows in self._rows.items()})


class _UsedTally:
    """Differences by key and pair of values, with their images.

    Memory is bounded; differences beyond the bound are only counted.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, bytes, bytes], Rows] = {}
        self._room = _MOST_BYTES
        self.not_listed = 0
        self.left_out: dict[str, str] = {}

    def compare(
        self, index: int, left: Mapping[str, Any] | None, right: Mapping[str, Any] | None
    ) -> None:
        if left is None or right is None:
            return
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
            self._note(index, one)

    def _note(self, index: int, one: Difference) -> None:
        place = (one.key, _encoded(one.left), _encoded(one.right))
        rows = self._seen.get(place)
        if rows is None:
            size = sum(map(len, place)) + _ROW_BYTES
            if size > self._room:
                self.not_listed += 1
                return
            self._room -= size
            rows = self._seen[place] = Rows()
        if rows.add(index):
            self._room -= _ROW_BYTES

    def found(self) -> tuple[UsedDifference, ...]:
        return tuple(
            UsedDifference(key=key, left=_decoded(left), right=_decoded(right), images=rows.rows())
            for (key, left, right), rows in sorted(
                self._seen.items(), key=lambda item: (item[0][0], item[1].rows()[0])
            )
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


def _encoded(value: Any) -> bytes:
    return b"" if value is msgspec.UNSET else msgspec.json.encode(value)


def _decoded(body: bytes) -> Any:
    return msgspec.json.decode(body) if body else msgspec.UNSET

"""Before a run is started: whether its server is there, and has every name that it uses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import msgspec

from ....events.model import StageType
from ....statemachine.config.stage_configs import AdetailerConfig, Img2ImgConfig, Txt2ImgConfig
from ....statemachine.errors import BackendError, PreflightError
from ....statemachine.plan.plan import StageExecution, StageExecutionPlan
from ....statemachine.ports import GenerateRequest, SourceImage
from .client import WebUIClient
from .errors import RequestRefusedError
from .features import (
    EXTRA_SINGLE_IMAGE,
    IMG2IMG,
    INTERNAL_PROGRESS,
    INTERRUPT,
    OPENAPI,
    OPTIONS,
    PROGRESS,
    SCHEDULERS,
    SD_NEXT,
    TXT2IMG,
    ServerFeatures,
    discovered,
)
from .lists import (
    DETECTORS,
    LATENT_MODES,
    PROMPT_STYLES,
    SAMPLERS,
    SCRIPTS,
    SD_MODELS,
    SD_VAE,
    UPSCALERS,
    Entry,
    NameList,
    ServerLists,
    is_among,
    stems_of,
    vae_list,
)
from .names import NameCheck, NameKind, NameUse, Verdict, names_used
from .payloads import payload_of

SYSINFO = "/internal/sysinfo"
SYSINFO_TIMEOUT_S = 5.0
"""It asks the graphics driver and pip, and the version is worth no longer wait."""

_ENDPOINTS: Mapping[StageType, str] = {
    StageType.TXT2IMG: TXT2IMG,
    StageType.IMG2IMG: IMG2IMG,
    StageType.UPSCALE: EXTRA_SINGLE_IMAGE,
    StageType.ADETAILER: IMG2IMG,
}
_POSTED = (TXT2IMG, IMG2IMG, EXTRA_SINGLE_IMAGE, INTERRUPT, INTERNAL_PROGRESS)
_LISTS: Mapping[str, str] = {
    "checkpoints": SD_MODELS,
    "vaes": SD_VAE,
    "samplers": SAMPLERS,
    "schedulers": SCHEDULERS,
    "upscalers": UPSCALERS,
    "latent upscale modes": LATENT_MODES,
    "styles": PROMPT_STYLES,
    "detectors": DETECTORS,
}
_SCHEDULES = ("Karras", "Exponential", "Polyexponential", "SGM Uniform")
"""Those that samplers' names ended in before 1.9, for servers that list no schedulers."""
_NO_WEBUI = "no route of the API answers; is it a WebUI, started with --api?"
_LONGEST_VERSION = 80
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class RouteCheck(msgspec.Struct, frozen=True):
    """A route of the API: whether the server has it, None where that cannot be told."""

    path: str
    there: bool | None


class ServerReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a server is and has.

    ``checks`` are the names of the plan; ``offers`` how many names each list holds that was
    looked into (None where there is no such list). ``problems`` would make the plan fail;
    ``notes`` say what could not be checked, and why.
    """

    url: str
    features: ServerFeatures
    routes: tuple[RouteCheck, ...] = ()
    checks: tuple[NameCheck, ...] = ()
    problems: tuple[str, ...] = ()
    offers: Mapping[str, int | None] = {}
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[NameCheck, ...]:
        """The names that the server lacks."""
        return tuple(one for one in self.checks if one.verdict is Verdict.MISSING)

    @property
    def complaints(self) -> tuple[str, ...]:
        """Everything that speaks against the plan, in words; empty where nothing does."""
        return (*(one.complaint() for one in self.missing), *self.problems)


def preflight(client: WebUIClient, plan: StageExecutionPlan) -> ServerFeatures:
    """What the server is, if it can do what ``plan`` asks for.

    Raises PreflightError where it cannot be reached, wants other credentials, or lacks a
    name or something else that the plan needs. What cannot be checked is let pass.
    """
    with _out_of_reach_refused():
        inspection = _Inspection(client)
        report = inspection.of_plan(plan)
        if not inspection.is_webui():
            raise PreflightError(f"{report.url}: {_NO_WEBUI}")
    if report.complaints:
        key = report.missing[0].key if report.missing else None
        raise PreflightError(f"{report.url}: {'; '.join(report.complaints)}", key=key)
    return msgspec.structs.replace(report.features, stems=inspection.stems())


def inspect_server(client: WebUIClient, plan: StageExecutionPlan | None) -> ServerReport:
    """Everything that can be told of a server; of its lists only those that ``plan`` needs.

    Without a plan all lists are counted. Raises PreflightError where the server cannot be
    reached or wants other credentials.
    """
    with _out_of_reach_refused():
        inspection = _Inspection(client)
        report = inspection.of_everything() if plan is None else inspection.of_plan(plan)
        routes = tuple(inspection.routes())
    problems = report.problems
    if not any(route.there for route in routes):
        problems = (*problems, _NO_WEBUI)
    return msgspec.structs.replace(report, routes=routes, problems=problems)


@contextmanager
def _out_of_reach_refused() -> Iterator[None]:
    try:
        yield
    except BackendError as error:
        raise PreflightError(str(error)) from error


class _Inspection:
    """One look at one server. Every method raises ServerError."""

    def __init__(self, client: WebUIClient) -> None:
        self._client = client
        self._lists = ServerLists(client)
        self._features = self._discovered()

    def of_plan(self, plan: StageExecutionPlan) -> ServerReport:
        """Whether the server can do what ``plan`` asks for."""
        problems = [*self._missing_routes(_ENDPOINTS[one.stage_type] for one in plan.stages)]
        detailing = True
        for stage in plan.stages:
            refusals = [*self._refusals(stage)]
            problems += refusals
            if isinstance(stage.config, AdetailerConfig):
                detailing = not refusals and self._has_detailer()
                if not refusals:
                    problems += self._detailer_problems(stage.config, detailing=detailing)
        comparison = _Comparison(self._lists, self._features, detailing=detailing)
        checks = [comparison.check(use) for use in names_used(plan)]
        return ServerReport(
            url=self._client.address.url,
            features=self._features,
            checks=tuple(dict.fromkeys(checks)),
            problems=tuple(dict.fromkeys(problems)),
            notes=self._lists.notes,
        )

    def of_everything(self) -> ServerReport:
        """How much the server offers."""
        lists = {**_LISTS, "vaes": vae_list(self._features)}
        offers = {
            name: None if (found := self._lists.names(path)) is None else len(found)
            for name, path in lists.items()
        }
        return ServerReport(
            url=self._client.address.url,
            features=self._features,
            problems=tuple(self._missing_routes(_ENDPOINTS.values())),
            offers=offers,
            notes=self._lists.notes,
        )

    def is_webui(self) -> bool:
        """Whether anything of what was asked, or at least its progress, answers as a WebUI."""
        return self._lists.any_answered or self._lists.has(PROGRESS) is True

    def stems(self) -> Mapping[str, str]:
        """The stems of the server's checkpoints, by the names that they go by."""
        return stems_of(self._lists.names(SD_MODELS) or ())

    def routes(self) -> Iterator[RouteCheck]:
        """The routes of the API that stagewright can make use of."""
        lists = {**_LISTS, "vaes": vae_list(self._features)}.values()
        for path in (*_POSTED, PROGRESS, SCRIPTS, OPTIONS, *lists):
            yield RouteCheck(path.partition("?")[0], self._is_there(path))

    def _is_there(self, path: str) -> bool | None:
        shown = self._features.routes
        if path.partition("?")[0] in shown:
            return True
        if path == INTERRUPT:  # Not even asked: whatever runs shall go on.
            return False if shown else None
        there = self._lists.has(path)
        # What takes a POST only may be there, whatever a GET is answered with.
        return there if there or shown or path not in _POSTED else None

    def _discovered(self) -> ServerFeatures:
        features = discovered(lambda path: self._lists.answer(path, noted=path == OPENAPI))
        version = self._told_version()
        return msgspec.structs.replace(features, version=version) if version else features

    def _told_version(self) -> str | None:
        """The version in the server's own words, which it has for its user interface."""
        try:
            told = self._client.get(SYSINFO, timeout_s=SYSINFO_TIMEOUT_S)
        except BackendError:
            return None
        version = told.get("Version") if isinstance(told, Mapping) else None
        if not isinstance(version, str):
            return None
        shown = self._client.credentials.scrub(_CONTROL.sub("", version))
        return shown.strip()[:_LONGEST_VERSION] or None

    def _missing_routes(self, endpoints: Iterable[str]) -> Iterator[str]:
        shown = self._features.routes
        for endpoint in dict.fromkeys(endpoints):
            if shown and endpoint not in shown and self._lists.has(endpoint) is False:
                yield f"it has no {endpoint}; was it started with --api?"

    def _refusals(self, stage: StageExecution) -> Iterator[str]:
        """Why the server would not take the stage's requests."""
        try:
            payload_of(_request_like(stage), self._features)
        except RequestRefusedError as error:
            yield f"{stage.stage_type}: {error}"

    def _has_detailer(self) -> bool:
        scripts = self._lists.img2img_scripts()
        return scripts is None or "adetailer" in scripts

    def _detailer_problems(self, config: AdetailerConfig, *, detailing: bool) -> Iterator[str]:
        if not detailing:
            yield "adetailer: the server has no ADetailer extension"
            return
        passes = len(config.passes)
        most = self._lists.most_detailer_passes() if passes > 1 else None
        if most is not None and passes > most:
            yield (
                f"adetailer.passes: the server runs {most} of these {passes} passes and would "
                "drop the rest; raise ad_max_models in its settings"
            )


def _request_like(stage: StageExecution) -> GenerateRequest:
    """A request as the stage will make them; it is looked at and never sent."""
    config = stage.config
    image = SourceImage(data=b"", source_sha256="", media_type="image/png", width=64, height=64)
    masked = isinstance(config, Img2ImgConfig) and config.mask is not None
    batch = config.batch_size if isinstance(config, Txt2ImgConfig) else None
    return GenerateRequest(
        call_id="preflight",
        run_id="preflight",
        stage_id=stage.stage_id,
        stage_type=stage.stage_type,
        image_index=0,
        count=batch or 1,
        total_images=batch or 1,
        attempt=0,
        seed=0,
        config=config,
        inputs=(image,) if stage.requires_input_image else (),
        mask=image if masked else None,
    )


class _Comparison:
    """Names held against a server's lists; ``detailing`` says whether it has ADetailer."""

    def __init__(self, lists: ServerLists, features: ServerFeatures, *, detailing: bool) -> None:
        self._lists = lists
        self._features = features
        self._detailing = detailing
        self._one_name = not features.takes(TXT2IMG, "scheduler")

    def check(self, use: NameUse) -> NameCheck:
        """Whether the server has the name."""
        found, known = self._look_up(use)
        if found:
            return NameCheck(use.kind, use.key, use.name, Verdict.FOUND)
        if known is None:
            return NameCheck(use.kind, use.key, use.name, Verdict.NOT_CHECKED)
        nearest = self._lists.nearest(use.name, known)
        return NameCheck(use.kind, use.key, use.name, Verdict.MISSING, nearest)

    def _look_up(self, use: NameUse) -> tuple[bool, NameList | None]:
        """Whether it is there, and the list that it should be in; None if that is not known."""
        match use.kind:
            case NameKind.SAMPLER:
                return self._sampler(use)
            case NameKind.SCHEDULER if self._one_name and use.partner:
                return self._scheduler_in_sampler(use.name, use.partner)
            case NameKind.SCHEDULER:
                return self._in_list(SCHEDULERS, use.name)
            case NameKind.HIRES_UPSCALER:
                return self._hires_upscaler(use.name)
            case NameKind.CHECKPOINT:
                return self._in_list(SD_MODELS, use.name)
            case NameKind.VAE:
                return self._in_list(vae_list(self._features), use.name)
            case NameKind.UPSCALER:
                return self._in_list(UPSCALERS, use.name)
            case NameKind.STYLE:
                return self._in_list(PROMPT_STYLES, use.name)
            case NameKind.DETECTOR:
                return self._in_list(DETECTORS, use.name) if self._detailing else (False, None)

    def _in_list(self, path: str, *names: str) -> tuple[bool, NameList | None]:
        known = self._lists.names(path)
        return is_among(known or (), *names), known

    def _sampler(self, use: NameUse) -> tuple[bool, NameList | None]:
        known = self._lists.names(SAMPLERS)
        if known is None:
            return False, None
        if use.exact:
            return any(use.name == entry.name for entry in known), known
        if is_among(known, use.name):
            return True, known
        if self._one_name:
            return is_among(known, f"{use.name} {use.partner}"), known
        return self._is_sampler_and_scheduler(use.name, known), known

    def _is_sampler_and_scheduler(self, name: str, samplers: NameList) -> bool:
        """Whether it is two names in one, as they were before 1.9: ``DPM++ 2M Karras``."""
        tails = {
            name.removeprefix(f"{one.name} ") for one in samplers if name.startswith(f"{one.name} ")
        }
        if not tails:
            return False
        known = self._lists.names(SCHEDULERS)
        if known is None:
            return not tails.isdisjoint(_SCHEDULES)
        return is_among(known, *tails)

    def _scheduler_in_sampler(self, name: str, sampler: str) -> tuple[bool, NameList | None]:
        """The scheduler on a server that has one name for both."""
        samplers = self._lists.names(SAMPLERS)
        if samplers is None or self._features.product == SD_NEXT:  # It takes none at all.
            return False, None
        start = f"{sampler} "
        tails = [one.name.removeprefix(start) for one in samplers if one.name.startswith(start)]
        return name in tails, tuple(Entry(tail, frozenset([tail])) for tail in tails)

    def _hires_upscaler(self, name: str) -> tuple[bool, NameList | None]:
        """A latent mode or an upscaler; the likelier list is looked into first."""
        paths = [UPSCALERS, LATENT_MODES]
        if name.startswith("Latent"):
            paths.reverse()
        every: list[Entry] = []
        unknown = False
        for path in paths:
            found, known = self._in_list(path, name)
            if found:
                return True, known
            unknown = unknown or known is None
            every += known or ()
        return False, None if unknown else tuple(every)

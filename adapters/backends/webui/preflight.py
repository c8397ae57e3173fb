"""Checks before a run that its server is reachable and has every name that the plan uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec

from ....statemachine.errors import BackendError, PreflightError
from ....statemachine.plan.plan import StageExecution, StageExecutionPlan
from ....statemachine.ports import GenerateRequest, SourceImage
from ....statemachine.stages import AdetailerConfig
from ..http.client import HttpClient
from ..http.errors import RequestRefusedError
from ..report import NameCheck, RouteCheck, ServerReport
from .features import (
    EXTRA_SINGLE_IMAGE,
    FORGE,
    IMG2IMG,
    INTERNAL_PROGRESS,
    INTERRUPT,
    PROGRESS,
    TXT2IMG,
    ServerFeatures,
    discovered,
    with_detailer_keys,
)
from .lists import OPTIONS, SCRIPTS, ServerLists
from .name_comparison import NameComparison
from .names import (
    KINDS,
    Entry,
    NameKind,
    NameList,
    names_in_prompts,
    names_used,
)
from .pass_through import pass_through_problems
from .payloads import STAGES, payload_of

_POSTED = (TXT2IMG, IMG2IMG, EXTRA_SINGLE_IMAGE, INTERRUPT, INTERNAL_PROGRESS)
_NO_WEBUI = (
    "no route answers like that of a WebUI; is it one, was it started with --api, and is it ready?"
)
LOADED = tuple(KINDS[kind].plural for kind in (NameKind.CHECKPOINT, NameKind.VAE, NameKind.MODULE))
"""The lists with entries that a server may have loaded."""


def preflight(
    client: HttpClient,
    plan: StageExecutionPlan,
    prompts: Sequence[str] = (),
    *,
    lists: ServerLists | None = None,
) -> ServerFeatures:
    """The features of the server, if ``plan`` can run on it, with these prompts of its images.

    Its ``lists`` hold what has been read of them afterwards.

    Raises PreflightError if the server cannot be reached, rejects the credentials, or lacks a
    name or feature that the plan needs. What cannot be checked is not an error.
    """
    with _out_of_reach_refused():
        inspection = _Inspection(client, lists or ServerLists(client))
        if not inspection.is_webui():
            raise PreflightError(inspection.refusal)
        report = inspection.of_plan(plan, prompts)
    if report.complaints:
        key = report.missing[0].key if report.missing else None
        raise PreflightError(f"{report.url}: {'; '.join(report.complaints)}", key=key)
    return msgspec.structs.replace(inspection.features, stems=inspection.stems())


def inspect_server(
    client: HttpClient, plan: StageExecutionPlan | None, prompts: Sequence[str] = ()
) -> ServerReport:
    """A report on a server; reads only the lists that ``plan`` needs.

    Without a plan, counts the entries of all lists. Raises PreflightError if the server cannot
    be reached or rejects the credentials.
    """
    with _out_of_reach_refused():
        inspection = _Inspection(client, ServerLists(client))
        inspection.ask_for_version()
        report = inspection.of_everything() if plan is None else inspection.of_plan(plan, prompts)
        routes = tuple(inspection.routes())
    if not inspection.is_webui():
        report = msgspec.structs.replace(report, checks=(), problems=(inspection.refusal,))
    return msgspec.structs.replace(report, routes=routes)


@contextmanager
def _out_of_reach_refused() -> Iterator[None]:
    try:
        yield
    except BackendError as error:
        raise PreflightError(str(error)) from error


class _Inspection:
    """Inspects one server. Every method may raise ServerError."""

    def __init__(self, client: HttpClient, lists: ServerLists) -> None:
        self._client = client
        self._lists = lists
        self.features = discovered(self._lists)

    def of_plan(self, plan: StageExecutionPlan, prompts: Sequence[str]) -> ServerReport:
        """Check whether ``plan`` can run on the server."""
        served = [STAGES[one.stage_type] for one in plan.stages if one.stage_type in STAGES]
        problems = [*self._missing_routes(stage.endpoint for stage in served)]
        detailing = True
        if any(isinstance(stage.config, AdetailerConfig) for stage in plan.stages):
            self.features = with_detailer_keys(self.features, self._lists)
        for stage in plan.stages:
            refusals = [*self._refusals(stage)]
            problems += refusals
            if isinstance(stage.config, AdetailerConfig):
                detailing = not refusals and self._has_detailer()
                if not refusals:
                    problems += self._detailer_problems(stage.config, detailing=detailing)
        comparison = NameComparison(self._lists, self.features, detailing=detailing)
        in_styles = [use for one in plan.stages for use in comparison.names_in_styles(one.config)]
        uses = [*names_used(plan), *names_in_prompts(plan, prompts), *in_styles]
        checks = [comparison.check(use) for use in uses]
        self.features = msgspec.structs.replace(self.features, spellings=comparison.spellings)
        return self._report(checks=tuple(dict.fromkeys(checks)), problems=problems)

    def of_everything(self) -> ServerReport:
        """List and count what the server offers."""
        known = {KINDS[kind].plural: self._names(kind) for kind in self._kinds()}
        offers = {name: None if found is None else len(found) for name, found in known.items()}
        problems = self._missing_routes(stage.endpoint for stage in STAGES.values())
        report = self._report(offers=offers, problems=problems)
        in_use = self._lists.names_in_use()
        return msgspec.structs.replace(
            report,
            names={name: self._shown(found or ()) for name, found in known.items()},
            loaded={
                name: self._shown(one for one in found or () if not in_use.isdisjoint(one.forms))
                for name, found in known.items()
                if name in LOADED
            },
        )

    def _shown(self, entries: Iterable[Entry]) -> tuple[str, ...]:
        return tuple(self._client.credentials.scrub(entry.name) for entry in entries)

    def _kinds(self) -> list[NameKind]:
        """The kinds of names that this kind of server has."""
        is_forge = self.features.product == FORGE
        return [kind for kind in KINDS if is_forge or kind is not NameKind.MODULE]

    def _names(self, kind: NameKind) -> NameList | None:
        route = self.features.vae_route if kind is NameKind.VAE else None
        return self._lists.names(kind, route)

    def _report(
        self,
        *,
        problems: Iterable[str],
        checks: tuple[NameCheck, ...] = (),
        offers: Mapping[str, int | None] = {},
    ) -> ServerReport:
        return ServerReport(
            url=self._client.address.url,
            product=self.features.product,
            version=self.features.version,
            checks=checks,
            problems=tuple(dict.fromkeys(problems)),
            offers=offers,
            notes=self._lists.notes,
        )

    def is_webui(self) -> bool:
        """Whether any queried route, or at least the progress route, answers like a WebUI."""
        self._lists.answer(PROGRESS, noted=False)
        return self._lists.any_answered

    @property
    def refusal(self) -> str:
        """Why nothing answers like a WebUI."""
        return self._lists.refusal or f"{self._client.address.url}: {_NO_WEBUI}"

    def stems(self) -> Mapping[str, str]:
        """The stems of the server's checkpoints, by each of their names."""
        return self._lists.stems()

    def routes(self) -> Iterator[RouteCheck]:
        """The routes of the API that stagewright uses."""
        usual = {kind: KINDS[kind].route for kind in self._kinds()}
        lists = dict.fromkeys((usual | {NameKind.VAE: self.features.vae_route}).values())
        for path in (*_POSTED, PROGRESS, SCRIPTS, OPTIONS, *lists):
            yield RouteCheck(path.partition("?")[0], self._is_there(path))

    def _is_there(self, path: str) -> bool | None:
        shown = self.features.routes
        if path.partition("?")[0] in shown:
            return True
        if path == INTERRUPT:  # Not queried: it would interrupt the running job.
            return False if shown else None
        there = self._lists.has(path)
        # A route that takes only POST may exist although GET fails.
        return there if there or shown or path not in _POSTED else None

    def ask_for_version(self) -> None:
        """Ask for the exact version, which takes the server a second or more."""
        version = self._lists.version()
        if version:
            self.features = msgspec.structs.replace(self.features, version=version)

    def _missing_routes(self, endpoints: Iterable[str]) -> Iterator[str]:
        shown = self.features.routes
        for endpoint in dict.fromkeys(endpoints):
            if shown and endpoint not in shown and self._lists.has(endpoint) is False:
                yield f"it has no {endpoint}; was it started with --api?"

    def _refusals(self, stage: StageExecution) -> Iterator[str]:
        """Why the server cannot take the requests of the stage."""
        try:
            payload = payload_of(_request_like(stage), self.features)
        except RequestRefusedError as error:
            yield f"{stage.stage_type}: {error}"
        else:
            yield from pass_through_problems(stage.config, payload, self._lists)

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
    """A request like those of the stage, to be checked and never sent."""
    config = stage.config
    image = SourceImage(data=b"", source_sha256="", media_type="image/png", width=64, height=64)
    return GenerateRequest(
        call_id="preflight",
        run_id="preflight",
        stage_id=stage.stage_id,
        stage_type=stage.stage_type,
        image_index=0,
        count=config.batch_size or 1,
        total_images=config.batch_size or 1,
        attempt=0,
        seed=0,
        config=config,
        inputs=(image,) if stage.requires_input_image else (),
        mask=image if config.mask is not None else None,
    )

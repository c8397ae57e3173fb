"""What is sent to servers of different kinds and ages, as their own schema shows them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from stagewright.adapters.backends.http.errors import RequestRefusedError
from stagewright.adapters.backends.webui.features import features_of
from stagewright.adapters.backends.webui.payloads import payload_of
from stagewright.statemachine.stages import HiresConfig

from .test_webui_payloads import REFINER, SCHEMA, TXT2IMG, changed, request, sent


def known(product: str | None = None, *, without: tuple[str, ...] = (), **more: Any) -> Any:
    """A server's features: those of the schema, less some."""
    features = features_of(SCHEMA)
    fields = {endpoint: names - set(without) for endpoint, names in features.fields.items()}
    return changed(features, product=product or features.product, fields=fields, **more)


def test_a_server_that_knows_no_task_ids_is_sent_none() -> None:
    """Before 1.8 there was no ``force_task_id``."""
    body = sent(TXT2IMG, known(without=("force_task_id",))).body
    assert body == {k: v for k, v in sent(TXT2IMG).body.items() if k != "force_task_id"}


def test_before_1_9_a_scheduler_is_part_of_the_samplers_name() -> None:
    """Both go in one field; Automatic is no part of a name."""
    old = known(without=("scheduler", "hr_scheduler"))
    assert sent(TXT2IMG, old).body["sampler_name"] == "Euler a Karras"
    automatic = changed(TXT2IMG, scheduler="Automatic")
    assert sent(automatic, old).body["sampler_name"] == "Euler a"
    assert "scheduler" not in sent(TXT2IMG, old).body


def test_a_field_that_the_plan_needs_is_not_left_out_in_silence() -> None:
    """A server without refiner fields is refused by name."""
    old = known(without=("refiner_checkpoint", "refiner_switch_at"))
    with pytest.raises(RequestRefusedError, match="takes no refiner_checkpoint"):
        payload_of(request(changed(TXT2IMG, refiner=REFINER)), old)
    hires = HiresConfig(scale=2.0, denoise=0.5, scheduler="Karras")
    with pytest.raises(RequestRefusedError, match="hr_scheduler"):
        payload_of(request(changed(TXT2IMG, hires=hires)), known(without=("hr_scheduler",)))


@pytest.mark.parametrize("schema", [None, [], {}, {"paths": []}, {"paths": {"/x": 5}}, "text"])
def test_a_hidden_or_odd_schema_means_that_nothing_is_known(schema: object) -> None:
    """Then every field may be sent."""
    features = features_of(schema)
    assert features.product is None
    assert payload_of(request(TXT2IMG), features) == payload_of(request(TXT2IMG))


@pytest.mark.parametrize(
    ("without", "version"),
    [
        ((), "1.9.1 or later"),
        (("scheduler", "force_task_id", "refiner_checkpoint"), "before 1.6.0"),
        (("scheduler", "force_task_id"), "1.6.0 or 1.7.0"),
        (("scheduler",), "1.8.0"),
    ],
)
def test_the_schema_tells_the_oldest_version_that_it_can_be(
    without: tuple[str, ...], version: str
) -> None:
    """Fields came one after another."""
    schema = json.loads(json.dumps(SCHEMA))
    properties = schema["components"]["schemas"]["StableDiffusionProcessingTxt2Img"]["properties"]
    for name in without:
        del properties[name]
    if without:
        del schema["paths"]["/sdapi/v1/schedulers"]
    assert features_of(schema).version == version

"""The commands of a farm, what they refuse, and what its processes take from the network."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import distributed
import pytest
from distributed.protocol import dumps, loads
from distributed.protocol.serialize import ToPickle
from msgspec.structs import replace
from stagewright.adapters import open_controller
from stagewright.adapters.backends.farm.scheduler import SchedulerChoice, run_scheduler
from stagewright.adapters.backends.farm.status import read_farm
from stagewright.adapters.backends.farm.unpickling import RefusedPickleError, restrict_unpickling
from stagewright.adapters.backends.farm.worker import WorkerSettings, run_worker
from stagewright.adapters.cli.commands.farm import print_worker
from stagewright.events import CallRequested, RunOpened, RunState
from stagewright.events.log.reader import iterate
from stagewright.statemachine.errors import ConfigurationError, PreflightError

from .command_line import run_python, stagewright, write_config
from .farming import Farm, open_farm, work

OTHER_MODEL = "only-here.safetensors"
INTRUDER = """
import logging, os, sys
import distributed
logging.disable()
address, proof = sys.argv[1:]
client = distributed.Client(address, timeout=5)
def attempt(name, act):
    try:
        act()
    except BaseException as error:
        print(name, "refused", flush=True)
    else:
        print(name, "DONE", flush=True)
attempt("task", lambda: client.submit(os.mkdir, proof).result(timeout=5))
attempt("run", lambda: client.run(os.mkdir, proof))
attempt("scheduler", lambda: client.run_on_scheduler(os.mkdir, proof))
attempt("upload", lambda: client.upload_file(__file__))
client.dump_cluster_state(proof, write_from_scheduler=True)  # is not answered
os._exit(0)
"""


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """A farm of two workers: one has a resource, the other another model."""
    with open_farm(tmp_path_factory.mktemp("farm")) as opened:
        opened.add_workers(opened.add_server(), options=("--resource", "small"))
        opened.add_workers(opened.add_server(OTHER_MODEL))
        yield opened


def small(**top: Any) -> dict[str, Any]:
    """A configuration of one image."""
    return work("txt2img", "upscale", images=1, **top)


def test_status_shows_each_worker(
    farm: Farm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Server, product, resources and present request of each worker, as a table and as JSON."""
    done = stagewright("farm", "status", farm.address, "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    workers = json.loads(done.stdout)["workers"]
    assert {one["server"] for one in workers} == {one.url for one in farm.servers}
    assert sorted(one["resources"] for one in workers) == [[], ["small"]]
    assert {one["product"] for one in workers} == {"AUTOMATIC1111"}
    assert [one["call_id"] for one in workers] == [None, None]
    for worker in read_farm(farm.address, insecure=False):
        print_worker(worker)
    shown = capsys.readouterr().out
    assert all(name in shown for name in farm.workers)
    assert shown.count("model      sd_xl_base_1.0.safetensors") == 2


@pytest.mark.lowest
def test_a_stage_goes_to_workers_with_its_resource_alone(farm: Farm, tmp_path: Path) -> None:
    """``farm_hint`` names the resource that the worker must have."""
    config = small()
    config["upscale"]["farm_hint"] = "small"
    result = open_controller(tmp_path, farm.address).start(config).wait(timeout_s=60)
    assert result.state is RunState.COMPLETED
    (asked,) = [
        one
        for one in result.events
        if isinstance(one, CallRequested) and one.stage_id == "01-upscale"
    ]
    assert asked.server == next(iter(farm.workers))
    assert result.plan["stages"][1]["farm_hint"] == "small"


def test_a_resource_that_no_worker_has_is_refused(farm: Farm, tmp_path: Path) -> None:
    """The run is not started, and the message names the key and the option."""
    config = small()
    config["upscale"]["farm_hint"] = "huge"
    with pytest.raises(PreflightError, match=r"farm_hint = 'huge': no worker .*--resource"):
        open_controller(tmp_path, farm.address).start(config)
    assert not list(tmp_path.glob("2*"))


def test_a_worker_whose_server_lacks_a_name_is_not_used(
    farm: Farm, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The others make the images, and a message names the worker and what its server lacks."""
    config = small()
    config["txt2img"]["model"] = OTHER_MODEL
    result = open_controller(tmp_path, farm.address).start(config).wait(timeout_s=60)
    assert result.state is RunState.COMPLETED
    lacking, having = farm.workers
    assert f"worker {lacking} is not used: " in caplog.text
    assert OTHER_MODEL in caplog.text
    opened = result.events[0]
    assert isinstance(opened, RunOpened)
    assert isinstance(opened.backend.servers, tuple)
    assert [one.url for one in opened.backend.servers] == [having]


def test_an_address_of_another_machine_needs_tls(tmp_path: Path) -> None:
    """Scheduler, worker and run refuse it without --insecure, and say what to do."""
    worker = WorkerSettings(scheduler="127.0.0.1:9", server="127.0.0.1:7860")
    scheduler = SchedulerChoice(
        host="0.0.0.0", port=0, dashboard_port=0, worker_timeout_s=1.0, insecure=False
    )
    refused: list[Callable[[], object]] = [
        lambda: run_scheduler(scheduler, Event(), print),
        lambda: run_worker(replace(worker, scheduler="render:8786"), Event(), print),
        lambda: run_worker(replace(worker, host="0.0.0.0"), Event(), print),
        lambda: read_farm("tcp://render:8786", insecure=False),
        lambda: open_controller(tmp_path, "tcp://render:8786").start(small()),
    ]
    for act in refused:
        with pytest.raises(ConfigurationError, match=r"stagewright farm certificates.*--insecure"):
            act()


def test_a_port_that_is_taken_is_named(farm: Farm, tmp_path: Path) -> None:
    """A second scheduler on the port of the first says so."""
    given = ("farm", "scheduler", "--port", farm.address.rpartition(":")[2])
    done = stagewright(*given, "--dashboard-port", "0", folder=tmp_path)
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1 port {given[-1]}: " in done.stderr


def test_a_run_refuses_a_scheduler_that_is_none_of_a_farm(tmp_path: Path) -> None:
    """One that Dask's own command starts would repeat requests by itself."""
    with distributed.LocalCluster(
        n_workers=0, processes=False, protocol="tcp://", dashboard_address=":0"
    ) as cluster:
        address = cluster.scheduler_address
        with pytest.raises(PreflightError, match="start it with `stagewright farm scheduler`"):
            open_controller(tmp_path, address).start(small())


def test_a_farm_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The run is not started: nothing listens there, or something that says nothing."""
    config = small(server={"connect_timeout_s": 0.2})
    with pytest.raises(PreflightError, match="9 cannot be reached"):
        open_controller(tmp_path, "tcp://127.0.0.1:9").start(config)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(PreflightError, match="cannot be reached: it does not answer"):
            open_controller(tmp_path, address).start(config)


@pytest.mark.lowest
def test_a_pickle_that_names_anything_else_is_refused() -> None:
    """What Dask reads from the network may name the task of a farm, and no other function."""
    restrict_unpickling()
    for wrong in (os.system, print, eval, distributed.Client, Path("x")):
        with pytest.raises(RefusedPickleError, match="a message names"):
            loads(dumps({"op": ToPickle(wrong)}))
    assert loads(dumps({"op": ToPickle(b"data")})) == {"op": b"data"}


def test_a_message_that_is_refused_is_told_in_one_line(tmp_path: Path) -> None:
    """Dask's own report of it, a traceback, is not shown."""
    program = tmp_path / "refusing.py"
    program.write_text(REFUSING, encoding="utf-8")
    told = run_python(program).stderr
    assert (
        told
        == f"refused: a message names {os.system.__module__}.system, which a farm never sends\n"
    )


@pytest.mark.linux
def test_a_worker_of_this_machine_listens_to_no_other(farm: Farm) -> None:
    """Without TLS it can be reached at the address of its scheduler alone."""
    (worker, *_) = read_farm(farm.address, insecure=False)
    port = int(worker.address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
    with socket.socket() as other:
        other.bind(("127.0.0.2", port))  # fails if the worker has all addresses of the machine


@pytest.mark.lowest
def test_a_farm_runs_no_function_of_another_program(farm: Farm, tmp_path: Path) -> None:
    """Neither its scheduler nor its workers do what a plain client of Dask asks for."""
    program = tmp_path / "intruder.py"
    program.write_text(INTRUDER, encoding="utf-8")
    done = run_python(program, farm.address, tmp_path / "proof").stdout
    assert done == "task refused\nrun refused\nscheduler refused\nupload refused\n"
    assert not list(tmp_path.glob("proof*"))
    result = open_controller(tmp_path, farm.address).start(small()).wait(timeout_s=60)
    assert result.state is RunState.COMPLETED


def test_a_sweep_runs_on_a_farm(farm: Farm, tmp_path: Path) -> None:
    """Every variant is made on the workers, with the options that the group has recorded."""
    handle = open_controller(tmp_path, farm.address).start_group(
        small(), vary=["txt2img.cfg_scale=5,6"]
    )
    assert handle.wait(timeout_s=60).state is RunState.COMPLETED
    opened = [next(iterate(folder)) for folder in tmp_path.glob("2*")]
    backends = [one.backend for one in opened if isinstance(one, RunOpened)]
    assert len(backends) == 2
    assert {(one.kind, one.url) for one in backends} == {("farm", farm.address)}


def test_a_farm_and_a_server_exclude_each_other(tmp_path: Path) -> None:
    """A run has either one."""
    config = write_config(tmp_path)
    given = ("--farm", "127.0.0.1:8786", "--server", "127.0.0.1:7860")
    done = stagewright("run", config, *given, folder=tmp_path)
    assert done.returncode == 2
    assert "--farm and --server exclude each other" in done.stderr


def test_dask_is_loaded_for_farms_alone(tmp_path: Path) -> None:
    """Without it, everything else works, and a farm's command names the extra."""
    program = tmp_path / "without.py"
    program.write_text(WITHOUT_DASK, encoding="utf-8")
    config = write_config(tmp_path)
    done = run_python(program, "run", config, "-q", folder=tmp_path)
    assert done.stdout.splitlines()[-2:] == ["0", "2"], done.stderr
    assert "pip install 'stagewright[farm]'" in done.stderr


REFUSING = """
import os
from stagewright.adapters.backends.farm.unpickling import restrict_unpickling
restrict_unpickling()
from distributed.protocol import dumps, loads
from distributed.protocol.serialize import ToPickle
try:
    loads(dumps({"op": ToPickle(os.system)}))
except Exception:
    pass
"""
WITHOUT_DASK = """
import sys
sys.modules["dask"] = sys.modules["distributed"] = None
from stagewright.__main__ import main
for farm in ([], ["--farm", "127.0.0.1:8786"]):
    sys.argv[4:] = farm
    try:
        main()
    except SystemExit as ended:
        print(ended.code or 0)
    else:
        print(0)
"""

"""The small RunPod of a rehearsal: its states, its price, and that our own client of the API understands it."""

import json
from typing import Any

import pytest

from gateway.providers.renting.vendor import Answer as Read
from gateway.providers.runpod_pod.api import read_gpu, read_pod, read_record
from gateway.rehearsal.vendor import POD, PRICE, PROVISIONING, STARTING, Vendor

KEY = "rpa_rehearsal"
T = 1_795_000_000.0


@pytest.fixture
def vendor() -> Vendor:
    return Vendor(KEY, port=18000)


def ask(vendor: Vendor, method: str, path: str, now: float, body: object = None, *, status: int = 200) -> Any:
    answer = vendor.handle(method, path, f"Bearer {KEY}", json.dumps(body).encode(), now)
    assert answer.status == status, answer
    return Read(answer.status, {}, answer.body).content()


def act(vendor: Vendor, action: str, now: float, *, status: int = 200) -> Any:
    return ask(vendor, "POST", f"/pods/{POD}/action", now, {"action": action}, status=status)


def test_a_run_goes_through_all_states_and_costs_until_its_container_is_gone(vendor: Vendor) -> None:
    assert ask(vendor, "GET", f"/pods/{POD}", T)["status"] == "EXITED"
    assert act(vendor, "start", T)["status"] == "PROVISIONING"
    assert not vendor.wants_body
    assert ask(vendor, "GET", f"/pods/{POD}", T + PROVISIONING)["status"] == "STARTING"
    assert vendor.wants_body
    vendor.came_up(T + 1)
    up = ask(vendor, "GET", f"/pods/{POD}", T + 1 + STARTING)
    assert up["status"] == "RUNNING" and len(up["runtime"]["gpus"]) == 1
    assert act(vendor, "stop", T + 3000)["status"] == "RUNNING"
    assert not vendor.wants_body
    vendor.went(T + 3600)
    asleep = ask(vendor, "GET", f"/pods/{POD}", T + 9000)
    assert (asleep["status"], asleep["cost"], asleep["runtime"]) == ("EXITED", 0, None)
    assert vendor.cost(T + 9000) == PRICE


def test_a_stop_before_anything_ran_ends_it_at_once(vendor: Vendor) -> None:
    act(vendor, "start", T)
    assert act(vendor, "stop", T + 0.1)["status"] == "EXITED"
    assert not vendor.wants_body and vendor.cost(T + 99) == 10


def test_what_may_not_be_done_now_is_a_conflict(vendor: Vendor) -> None:
    act(vendor, "stop", T, status=409)
    act(vendor, "start", T)
    act(vendor, "start", T, status=409)
    act(vendor, "dance", T, status=409)
    ask(vendor, "POST", f"/pods/{POD}/action", T, {}, status=422)


def test_a_wrong_key_and_another_path_are_refused(vendor: Vendor) -> None:
    assert vendor.handle("GET", "/pods", "Bearer wrong", b"", T).status == 401
    ask(vendor, "GET", "/pods/another", T, status=404)
    ask(vendor, "DELETE", f"/pods/{POD}", T, status=404)


def test_our_client_reads_what_it_says(vendor: Vendor) -> None:
    act(vendor, "start", T)
    vendor.came_up(T + 1)
    ask(vendor, "GET", "/pods", T + 60)
    pod = read_pod(ask(vendor, "GET", f"/pods/{POD}", T + 60))
    assert (pod.id, pod.status, pod.count, pod.cloud) == (POD, "RUNNING", 1, "COMMUNITY")
    assert pod.runtime is not None and pod.runtime.gpus == 1 and int(pod.cost * 1_000_000) == PRICE
    (kind,) = map(read_gpu, ask(vendor, "GET", "/catalog/gpus?count=1", T)["gpus"])
    assert kind is not None and kind.id == pod.gpu
    (record,) = map(read_record, ask(vendor, "GET", "/billing/pods?podId=rehearsal", T + 60)["records"])
    assert record.pod == POD and round(float(record.total) * 1_000_000) == vendor.cost(T + 60)
    assert set(pod.actions) == {"stop", "restart", "terminate"}


REQUIRED = {
    *("id", "name", "status", "actions", "image", "args", "disk", "mounts", "ports", "env", "registry", "cloud"),
    *("dataCenterId", "cudaVersion", "ssh", "template", "cost", "locked", "runtime", "createdAt", "startedAt"),
    "globalNetworking",
}
"""Of a Pod, by RunPod's schema of API v2 (read on 2026-08-18)."""


def test_a_pod_has_every_field_that_the_schema_requires(vendor: Vendor) -> None:
    assert set(ask(vendor, "GET", f"/pods/{POD}", T)) >= REQUIRED

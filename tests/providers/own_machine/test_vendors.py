"""What a machine may ask of its vendor about itself, and what the answers mean."""

import json

import pytest

from gateway.providers.own_machine.vendors import judge, own_machine
from gateway.providers.renting.vendor import Answer
from gateway.surroundings import Platform, Surroundings

URLS = {"runpod-pod": "https://api.runpod.io/v2", "vast": "https://console.vast.ai/api/v0/"}
ENVIRON = {
    "RUNPOD_POD_ID": "abc123",
    "RUNPOD_API_KEY": "pod-scoped",
    "CONTAINER_ID": "4711",
    "CONTAINER_API_KEY": "of-the-instance",
}


def test_a_pod_knows_its_id_its_key_and_how_it_is_stopped() -> None:
    machine = own_machine(Surroundings(platform="runpod-pod"), ENVIRON, URLS)
    assert machine is not None and str(machine) == "RunPod pod abc123" and machine.key == "pod-scoped"
    assert machine.look == ("GET", "/pods/abc123")
    method, path, body = machine.stop
    assert (method, path, json.loads(body)) == ("POST", "/pods/abc123/action", {"action": "stop"})


def test_a_vast_instance_knows_its_own() -> None:
    machine = own_machine(Surroundings(platform="vast"), ENVIRON, URLS)
    assert machine is not None and str(machine) == "Vast instance 4711" and machine.key == "of-the-instance"
    assert machine.url + machine.look[1] == "https://console.vast.ai/api/v0/instances/4711/"
    method, path, body = machine.stop
    assert (method, path, json.loads(body)) == ("PUT", "/instances/4711/", {"state": "stopped"})


def test_the_key_is_in_no_repr() -> None:
    assert "pod-scoped" not in repr(own_machine(Surroundings(platform="runpod-pod"), ENVIRON, URLS))


@pytest.mark.parametrize("platform", ["runpod-serverless", "modal", "kubernetes", "container", "plain"])
def test_what_a_platform_ends_by_itself_is_not_stopped_from_inside(platform: Platform) -> None:
    assert own_machine(Surroundings(platform=platform), ENVIRON, URLS) is None


@pytest.mark.parametrize("odd", ["", " ", "a/b", "../x", "a?b", "ä", "x" * 65])
def test_what_is_no_id_is_put_into_no_path(odd: str) -> None:
    assert own_machine(Surroundings(platform="runpod-pod"), ENVIRON | {"RUNPOD_POD_ID": odd}, URLS) is None


def test_without_a_key_of_its_own_there_is_a_machine_all_the_same() -> None:
    """It cannot stop itself, and says so to whoever sends it leases."""
    machine = own_machine(Surroundings(platform="runpod-pod"), {"RUNPOD_POD_ID": "abc123"}, URLS)
    assert machine is not None and machine.key == ""


@pytest.mark.parametrize(
    ("op", "status", "content", "kind"),
    [
        ("look", 200, {"id": "abc123", "locked": False}, None),
        ("look", 200, {"instances": {"id": 4711}}, None),
        ("look", 200, {"id": "abc123", "locked": True}, "locked"),
        ("look", 401, {"title": "Unauthorized"}, "key"),
        ("look", 403, {}, "key"),
        ("look", 404, {}, "not_found"),
        ("look", 500, {}, "failing"),
        ("stop", 200, {"id": "abc123", "status": "EXITED"}, None),
        ("stop", 200, {"success": True}, None),
        ("stop", 200, {"success": False, "msg": "no"}, "unprocessable"),
        ("stop", 409, {"title": "Conflict"}, None),
        ("stop", 401, {}, "key"),
        ("stop", 404, {}, "not_found"),
        ("stop", 429, {}, "limited"),
        ("stop", 400, {"detail": "locked"}, "unprocessable"),
    ],
)
def test_each_answer_means_one_thing(op: str, status: int, content: object, kind: str | None) -> None:
    error = judge(op, Answer(status, {}, json.dumps(content).encode()))
    assert (error.kind if error is not None else None) == kind


def test_nothing_that_a_vendor_wrote_is_passed_on() -> None:
    """It goes to the controller, and may quote the key."""
    error = judge("stop", Answer(403, {}, b'{"detail": "pod-scoped may not"}'))
    assert error is not None and "pod-scoped" not in f"{error} {error.detail}"

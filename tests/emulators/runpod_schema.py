"""What is checked of RunPod's published schema (openapi 2.0.0, read 2026-08-30): which fields an answer must have, of
which kinds, and which words it may use. Every answer of the emulator in these tests goes through `check`."""

import json
from typing import Any

from gateway.providers.renting.vendor import Answer

NUMBER, TEXT, MAYBE_TEXT = (int, float), (str,), (str, type(None))

POD: dict[str, tuple[type, ...]] = {
    "id": TEXT, "name": TEXT, "status": TEXT, "actions": (list,), "image": TEXT, "args": TEXT, "disk": (int,),
    "mounts": (dict,), "ports": (list,), "env": (dict,), "registry": MAYBE_TEXT, "cloud": TEXT,
    "dataCenterId": MAYBE_TEXT, "cudaVersion": MAYBE_TEXT, "ssh": (dict,), "template": MAYBE_TEXT, "cost": NUMBER,
    "locked": (bool,), "runtime": (dict, type(None)), "createdAt": TEXT, "startedAt": MAYBE_TEXT,
    "globalNetworking": (dict,),
}  # fmt: skip
PORT: dict[str, tuple[type, ...]] = {"private": (int,), "public": (int, type(None)), "type": TEXT, "ip": MAYBE_TEXT}
GPU: dict[str, tuple[type, ...]] = {
    "id": TEXT, "name": TEXT, "pool": MAYBE_TEXT, "manufacturer": TEXT, "memory": (int,), "secure": (bool,),
    "community": (bool,), "price": (dict,), "maxCount": (dict,),
}  # fmt: skip
CPU: dict[str, tuple[type, ...]] = {
    "id": TEXT, "name": TEXT, "group": TEXT, "vcpu": (dict,), "ramGbPerVcpu": NUMBER, "price": (dict,),
}  # fmt: skip
RECORD: dict[str, tuple[type, ...]] = {
    "startTime": TEXT, "endTime": TEXT, "podId": TEXT, "totalAmount": NUMBER, "gpuAmount": NUMBER,
    "cpuAmount": NUMBER, "diskAmount": NUMBER,
}  # fmt: skip
ERROR: dict[str, tuple[type, ...]] = {"title": TEXT, "status": (int,), "detail": TEXT}
STATUS = {"PROVISIONING", "STARTING", "RUNNING", "EXITED", "ERROR", "TERMINATED"}
ACTION = {"start", "stop", "restart", "terminate"}
STOCK = {"NONE", "LOW", "MEDIUM", "HIGH"}
STATUSES = {
    ("GET", "pods"): {200, 401, 403, 429}, ("POST", "pods"): {201, 400, 401, 402, 403, 404, 422, 429},
    ("GET", "pod"): {200, 401, 403, 404, 429}, ("DELETE", "pod"): {204, 400, 401, 403, 404, 409, 429},
    ("POST", "action"): {200, 204, 400, 401, 402, 403, 404, 409, 422, 429},
    ("GET", "gpus"): {200, 401, 403, 429}, ("GET", "cpus"): {200, 401, 403, 429},
    ("GET", "billing"): {200, 401, 403, 429},
}  # fmt: skip
"""By method and what is asked for. 402 stands in createPod's prose, and not in its table of responses; a 5xx may come
anywhere ("default")."""


def check(method: str, path: str, answer: Answer) -> None:
    """Raises AssertionError."""
    asked = what(path)
    assert answer.status in STATUSES[method, asked] or answer.status >= 500, (method, path, answer.status)
    if answer.status == 204:
        assert answer.body == b""
        return
    content = json.loads(answer.body)
    if answer.status >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        has(content, ERROR)
        return
    match asked:
        case "pods" if method == "GET":
            for pod in content["pods"]:
                is_pod(pod)
        case "pods" | "pod" | "action":
            is_pod(content)
        case "gpus":
            for gpu in content["gpus"]:
                has(gpu, GPU)
                assert gpu.get("availability", "NONE") in STOCK
        case "cpus":
            for cpu in content["cpus"]:
                has(cpu, CPU)
        case "billing":
            for record in content["records"]:
                has(record, RECORD)
            assert set(content["metadata"]) == {"query", "recordCount", "uniquePodCount", "totals"}


def what(path: str) -> str:
    words = path.partition("?")[0].removeprefix("/v2").strip("/").split("/")
    if words[0] == "pods":
        return ("pods", "pod", "action")[len(words) - 1]
    return words[0] if words[0] == "billing" else words[1]


def is_pod(pod: dict[str, Any]) -> None:
    has(pod, POD)
    assert pod["status"] in STATUS, pod["status"]
    assert set(pod["actions"]) <= ACTION
    assert ("gpu" in pod) != ("cpu" in pod)
    runtime = pod["runtime"] or {}
    for port in runtime.get("ports", []):
        has(port, PORT)


def has(content: dict[str, Any], fields: dict[str, tuple[type, ...]]) -> None:
    for name, kinds in fields.items():
        assert name in content, f"{name} is missing"
        assert type(content[name]) in kinds, f"{name} is {content[name]!r}"

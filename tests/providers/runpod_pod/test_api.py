"""RunPod's answers, read: what each means, and that nothing it could say breaks or fools us."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.providers.renting.vendor import Answer, Line, Urgency, VendorError
from gateway.providers.runpod_pod.api import Pod, Port, RunPodApi, Runtime, judge, quota_is_spent, read_pod
from tests.support.simulated import run

POD: dict[str, Any] = {"id": "abc123", "name": "n", "status": "RUNNING", "cost": Decimal("0.39")}
"""What is read of one; the whole of it is in the emulator."""


def problem(status: int, detail: str) -> Answer:
    body = json.dumps({"title": "t", "status": status, "detail": detail}).encode()
    return Answer(status, {"content-type": "application/problem+json"}, body)


@pytest.mark.parametrize(
    ("op", "status", "detail", "kind"),
    [
        ("create", 400, "There are no longer any instances available with the requested specifications.", "capacity"),
        ("create", 400, "gpu and cpu are mutually exclusive", "unprocessable"),
        ("create", 403, "access denied", "unprocessable"),
        ("create", 404, "template not found", "not_found"),
        ("create", 402, "insufficient balance", "balance"),
        ("create", 422, "Request validation failed.", "unprocessable"),
        ("create", 500, "internal server error", "failing"),
        ("start", 400, "There are not enough free GPUs on the host machine to start this pod.", "capacity"),
        ("start", 500, "There are not enough free GPUs on the host machine to start this pod.", "capacity"),
        ("start", 400, "request could not be processed", "capacity"),
        ("start", 400, "pod is locked", "locked"),
        ("start", 400, "Insufficient funds in the account", "balance"),
        ("start", 409, "not valid for the pod's status", "conflict"),
        ("start", 403, "access denied", "key"),
        ("stop", 400, "pod is locked", "locked"),
        ("stop", 409, "not valid for the pod's status", "conflict"),
        ("look", 401, "invalid api key", "key"),
        ("look", 404, "pod not found", "not_found"),
        ("look", 429, "rate limit exceeded; no instances available", "limited"),
    ],
)
def test_each_error_has_one_meaning(op: str, status: int, detail: str, kind: str) -> None:
    error = judge(op, problem(status, detail))
    assert error is not None
    assert error.kind == kind
    assert detail in error.detail


def test_only_a_failure_leaves_open_whether_it_happened() -> None:
    created = judge("create", problem(500, "internal server error"))
    refused = judge("create", problem(400, "no"))
    assert created is not None
    assert created.may_have_happened
    assert refused is not None
    assert not refused.may_have_happened


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ('"minute";r=0;t=12, "hour";r=2800;t=1812', 12.0),
        ('"minute";r=0;t=12, "hour";r=0;t=1812', 1812.0),
        ('"minute";r=59;t=60', 0.0),
        ("", 0.0),
        ("nonsense;;;r=;t=x,", 0.0),
        ('"minute";r=0;t=99999999999999', 0.0),
    ],
)
def test_quota_that_is_used_up_is_waited_for(header: str, seconds: float) -> None:
    assert quota_is_spent(Answer(200, {"ratelimit": header}, b"{}")) == seconds


def test_a_pod_is_read_as_it_stands() -> None:
    port = {"private": 8000, "public": 34446, "type": "tcp", "ip": "1.2.3.4"}
    told = {
        **POD,
        "gpu": {"id": "NVIDIA L4", "count": 2},
        "mounts": {"persistent": {"size": 20, "path": "/workspace"}},
        "runtime": {"uptime": 7, "gpus": [{}, {}], "ports": [port]},
        "startedAt": "2026-06-01T12:02:00Z",
        "locked": True,
    }
    pod = read_pod(told)
    assert (pod.gpu, pod.count, pod.persistent, pod.locked, pod.started_at) == ("NVIDIA L4", 2, 20, True, 1780315320.0)
    assert pod.runtime == Runtime(7.0, 2, (Port(8000, 34446, "tcp", "1.2.3.4"),))


@pytest.mark.parametrize(
    ("runtime", "says", "gpus"),
    [({}, False, None), ({"uptime": 3600, "ports": []}, True, None), ({"uptime": 1, "gpus": []}, True, 0)],
)
def test_a_runtime_that_says_nothing_of_its_gpus_has_not_lost_them(
    runtime: dict[str, object], says: bool, gpus: int | None
) -> None:
    """RunPod's own examples have an empty runtime, and one without `gpus`."""
    read = read_pod({**POD, "runtime": runtime}).runtime
    assert read is not None
    assert (read.says_something, read.gpus) == (says, gpus)


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": None}, {"id": "../../v2/account"}, {"id": "a" * 65}, {"id": ""}, {"status": 7}, {"cost": "0.3"},
        {"cost": Decimal("-1")}, {"cost": True}, {"cost": Decimal("1e999999")}, {"cost": 10**3000},
        {"gpu": {"id": "NVIDIA L4", "count": 10**300}}, {"mounts": {"persistent": {"size": 10**300}}},
    ],
)  # fmt: skip
def test_what_money_hangs_on_must_be_right(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_pod({**POD, **wrong})


NAMES = st.sampled_from([*POD, "runtime", "gpu", "mounts", "ports", "private", "gpus", "pods", "price", "records"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=80, deadline=None)
@given(st.one_of(ANYTHING, st.fixed_dictionaries({"pods": st.lists(ANYTHING, max_size=3)}), st.binary(max_size=60)))
def test_whatever_it_answers_is_pods_or_a_failure(content: object) -> None:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()

    async def transport(method: str, path: str, sent: bytes | None, within: float) -> Answer:
        return Answer(200, {}, body)

    async def ask(call: Callable[[RunPodApi], Awaitable[object]]) -> None:
        api = RunPodApi(Line(transport, judge=judge))
        try:
            found = await call(api)
        except VendorError as error:
            assert error.kind == "failing"
            assert api.line.trouble is error
        else:
            assert isinstance(found, list | Pod)

    async def ask_all() -> None:
        await ask(lambda api: api.pods(Urgency.LOOK))
        await ask(lambda api: api.pod("abc123", Urgency.LOOK))
        await ask(lambda api: api.gpus(1, "SECURE"))
        await ask(lambda api: api.bills(0, 3600, "hour", None))

    run(ask_all())


def test_a_bill_is_read_exactly() -> None:
    record = {"startTime": "2026-06-01T00:00:00Z", "endTime": "2026-06-01T01:00:00Z", "podId": "abc123",
              "totalAmount": 0.1, "gpuAmount": 0.07, "cpuAmount": 0, "diskAmount": 0.03}  # fmt: skip
    asked: list[str] = []

    async def transport(method: str, path: str, sent: bytes | None, within: float) -> Answer:
        asked.append(path)
        return Answer(200, {}, json.dumps({"records": [record], "metadata": {}}).encode())

    async def ask() -> None:
        (bill,) = await RunPodApi(Line(transport)).bills(1780272000, 1780275600, "hour", "abc123")
        assert (bill.total, bill.disk) == (Decimal("0.1"), Decimal("0.03"))
        assert bill.ends - bill.begins == 3600

    asyncio.run(ask())
    assert asked == [
        "/billing/pods?startTime=2026-06-01T00%3A00%3A00Z&endTime=2026-06-01T01%3A00%3A00Z&bucketSize=hour&podId=abc123"
    ]

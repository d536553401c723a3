"""A gateway that rents: real processes on both sides of an emulated RunPod, whose pod is a real worker."""

import concurrent.futures
import contextlib
import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.support.landlord import CHAT, SOON, Landlord, kill, landlord, renting, spend
from tests.support.worker import KEY, Worker, wait_for


@pytest.fixture
def rents(tmp_path: Path) -> Iterator[Landlord]:
    with landlord(tmp_path / "pods") as made:
        yield made


def stream_of(gateway: Worker) -> str:
    """Every line of a streamed answer, comments too."""
    line = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=120)
    head = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    line.request("POST", "/v1/chat/completions", json.dumps(CHAT | {"stream": True}), head)
    with contextlib.closing(line):
        return line.getresponse().read().decode()


def test_from_the_first_request_to_a_streamed_answer_and_to_the_stop_when_nobody_comes(
    tmp_path: Path, rents: Landlord
) -> None:
    rents.in_the_cloud(lambda cloud: setattr(cloud, "provisioning", 1.5))
    told_soon = {"HOLD_GRACE": "0", "HEARTBEAT_INTERVAL": "300ms"}
    # Idle for longer than this machine may be busy between two lines: a stop between them would be a right one.
    with renting(tmp_path, rents, IDLE_TIMEOUT="8s", **told_soon) as gateway:
        client = openai.OpenAI(base_url=f"{gateway.base}/v1", api_key=KEY, timeout=120)
        assert rents.actions() == [] and rents.running == []
        heard = stream_of(gateway)
        assert re.search(r"^: booting\b", heard, re.MULTILINE), "what the vendor does"
        assert "data: {" in heard and heard.rstrip().endswith("data: [DONE]")
        stream = client.chat.completions.create(
            model="default", messages=[{"role": "user", "content": "Hello"}], max_tokens=8, stream=True
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        assert rents.running == ["abc123"]
        assert "/h, stops " in gateway.console and " of $20 this month" in gateway.console
        gateway.until("stopped", within=SOON)
        assert rents.running == []
        assert rents.actions() == ["POST /v2/pods/abc123/action"] * 2
        assert spend(gateway)["spent_dollars"]
        # Without a key, or with nonsense, nobody starts anything.
        assert gateway.post("/v1/chat/completions", CHAT, key="wrong")[0] == 401
        assert gateway.post("/v1/chat/completions", {"messages": "no"})[0] == 400
        assert len(rents.actions()) == 2


def test_a_killed_gateway_takes_over_what_runs_and_stops_it(tmp_path: Path, rents: Landlord) -> None:
    with renting(tmp_path, rents, IDLE_TIMEOUT="5s") as gateway:
        assert gateway.post("/v1/chat/completions", CHAT, timeout=120)[0] == 200
        kill(gateway)
        assert rents.running == ["abc123"]
        gateway.start()
        gateway.until("ready", within=SOON)
        gateway.until("stopped", within=SOON)
        assert rents.running == []
        assert rents.actions() == ["POST /v2/pods/abc123/action"] * 2, "one start, one stop"


def test_at_the_budgets_end_callers_are_turned_away_before_anything_is_rented(tmp_path: Path, rents: Landlord) -> None:
    with renting(tmp_path, rents, MONTHLY_BUDGET="0.10") as gateway:

        def refused() -> bool:
            status, answer = gateway.post("/v1/chat/completions", CHAT)
            return bool(status == 429 and answer["error"]["code"] == "insufficient_quota")

        wait_for(refused, SOON, "the price is known, and no start fits")
        assert rents.actions() == []


def test_an_ordinary_end_waits_for_the_confirmed_stop_and_leave_leaves_it(tmp_path: Path, rents: Landlord) -> None:
    with renting(tmp_path, rents, ON_EXIT="leave") as gateway:
        assert gateway.post("/v1/chat/completions", CHAT, timeout=120)[0] == 200
        assert gateway.stop() == 0
        assert rents.running == ["abc123"]
        assert "abc123 at runpod-pod" in gateway.console and "is left running, for a successor" in gateway.console
    with renting(tmp_path, rents) as gateway:
        gateway.until("ready", within=SOON)
        assert gateway.stop(within=90) == 0
        assert rents.running == []


def test_a_pod_that_is_taken_away_is_replaced_for_whoever_heard_nothing_yet(tmp_path: Path) -> None:
    with landlord(tmp_path / "pods") as rents, renting(tmp_path, rents) as gateway:
        assert gateway.post("/v1/chat/completions", CHAT, timeout=120)[0] == 200
        rents.in_the_cloud(lambda cloud: cloud.take_away("abc123"))
        status, answer = gateway.post("/v1/chat/completions", CHAT, timeout=120)
        assert (status, rents.begun) == (200, 2), answer


@pytest.mark.parametrize("phase", ["booting", "answering", "stopping"])
def test_killed_in_each_phase_nothing_is_left_running_and_nothing_is_started_twice(
    phase: str, tmp_path: Path, rents: Landlord
) -> None:
    if phase == "booting":
        rents.in_the_cloud(lambda cloud: setattr(cloud, "provisioning", 3.0))
    with renting(tmp_path, rents, IDLE_TIMEOUT="3s") as gateway, concurrent.futures.ThreadPoolExecutor(1) as pool:
        caller = pool.submit(gateway.post, "/v1/chat/completions", CHAT | {"max_tokens": 400}, timeout=120)
        match phase:
            case "booting":
                wait_for(rents.actions, SOON, "the start is ordered")
            case "answering":
                gateway.until("ready", within=SOON)
            case "stopping":
                caller.result()
                wait_for(lambda: len(rents.actions()) > 1, SOON, "the stop is ordered")
        kill(gateway)
        with contextlib.suppress(OSError, http.client.HTTPException):
            caller.result()
        gateway.start()
        wait_for(lambda: not rents.running and gateway.state() == "stopped", SOON, "it is stopped")
        assert [action for action in rents.actions() if "action" not in action] == [], "nothing was created"
        assert rents.begun == 1, "one start"

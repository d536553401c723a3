"""Whoever looks after it hears of what costs money: once, in the end, and without anybody waiting for that."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from gateway.records.alerts import ONCE_IN, PAUSES, WAITING, Alerts, NoAlerts, web_hook
from tests.support.simulated import in_simulated_time

SECRET = "https://hooks.example/services/T0/B0/verysecret"


class Hook:
    """Somebody who takes alerts, or does not."""

    def __init__(self, *answers: int | OSError) -> None:
        self.answers = list(answers)
        """What comes next; 200 when there is no more."""
        self.bodies: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.done: list[str] = []
        self.hangs = False

    async def post(self, body: bytes) -> int:
        if self.hangs:
            await asyncio.sleep(3600)
        answer = self.answers.pop(0) if self.answers else 200
        if isinstance(answer, OSError):
            raise answer
        if 200 <= answer < 300:
            self.bodies.append(json.loads(body))
        return answer

    def alerts(self) -> Alerts:
        return Alerts(
            self.post,
            who="home",
            redact=lambda text: text.replace("rpa_key", "…"),
            wall=lambda: 1_795_000_000.0,
            say=lambda line, level: self.said.append(f"{level}: {line}"),
            on_done=self.done.append,
        )


@in_simulated_time
async def test_an_alert_says_it_to_people_and_to_programs() -> None:
    hook = Hook()
    alerts = hook.alerts()
    alerts.tell("budget", "80 % of $20 are spent, with rpa_key", about="80", percent=80, month="2026-11")
    await asyncio.sleep(1)
    assert hook.bodies == [
        {
            "text": "WakeGate home: 80 % of $20 are spent, with …",
            "content": "WakeGate home: 80 % of $20 are spent, with …",
            "event": "budget",
            "gateway": "home",
            "at": "2026-11-18T11:06:40Z",
            "percent": 80,
            "month": "2026-11",
        }
    ]
    assert hook.done == ["sent"]
    await alerts.close(5)


@in_simulated_time
async def test_the_same_thing_is_told_once_an_hour_and_another_at_once() -> None:
    hook = Hook()
    alerts = hook.alerts()
    for _ in range(50):
        alerts.tell("key_refused", "RunPod refuses the key", about="runpod-pod")
        alerts.tell("key_refused", "Vast refuses the key", about="vast")
        await asyncio.sleep(60)
    assert len(hook.bodies) == 2
    await asyncio.sleep(ONCE_IN)
    alerts.tell("key_refused", "RunPod refuses the key", about="runpod-pod")
    await asyncio.sleep(1)
    assert len(hook.bodies) == 3
    await alerts.close(5)


@pytest.mark.parametrize("trouble", [503, 429, OSError(111, "Connection refused")])
def test_what_was_not_taken_is_tried_again_with_growing_pauses(trouble: int | OSError) -> None:
    @in_simulated_time
    async def story() -> None:
        hook = Hook(trouble, trouble)
        alerts = hook.alerts()
        alerts.tell("orphan", "a pod of ours was found running")
        await asyncio.sleep(PAUSES[0] + PAUSES[1] - 1)
        assert hook.bodies == []
        await asyncio.sleep(2)
        assert len(hook.bodies) == 1 and hook.done == ["sent"]
        await alerts.close(5)

    story()


@in_simulated_time
async def test_it_is_given_up_after_a_while_and_said_without_the_url() -> None:
    hook = Hook(*[500] * 99)
    alerts = hook.alerts()
    alerts.tell("will_not_stop", "pod x does not stop")
    alerts.tell("orphan", "another")
    await asyncio.sleep(2 * sum(PAUSES) + 10)
    assert hook.done == ["lost", "lost"] and hook.bodies == []
    assert hook.said[0] == "warning: ALERT_URL was not told of will_not_stop: status 500"
    await alerts.close(5)


@in_simulated_time
async def test_a_plain_no_is_not_asked_again() -> None:
    hook = Hook(404)
    alerts = hook.alerts()
    alerts.tell("orphan", "one")
    alerts.tell("ledger", "two")
    await asyncio.sleep(1)
    assert hook.done == ["lost", "sent"] and [each["event"] for each in hook.bodies] == ["ledger"]
    await alerts.close(5)


@in_simulated_time
async def test_the_line_is_short_and_the_oldest_goes() -> None:
    hook = Hook()
    hook.hangs = True
    alerts = hook.alerts()
    for number in range(WAITING + 5):
        alerts.tell("orphan", f"pod {number}", about=str(number))
        await asyncio.sleep(0)
    assert hook.done == ["lost"] * 5
    hook.hangs = False
    await asyncio.sleep(60)
    assert [each["text"] for each in hook.bodies] == [f"WakeGate home: pod {n}" for n in range(5, WAITING + 5)]
    await alerts.close(5)


@in_simulated_time
async def test_an_end_tries_once_more_and_waits_no_longer_than_it_may() -> None:
    hook = Hook(500, 200)
    alerts = hook.alerts()
    alerts.tell("orphan", "one")
    await asyncio.sleep(1)  # the first try has failed, and a pause has begun
    began = asyncio.get_running_loop().time()
    await alerts.close(5)
    assert hook.done == ["sent"] and asyncio.get_running_loop().time() == began
    alerts.tell("orphan", "after the end", about="2")
    await asyncio.sleep(1)
    assert len(hook.bodies) == 1


@in_simulated_time
async def test_somebody_who_never_answers_does_not_keep_the_gateway() -> None:
    hook = Hook()
    hook.hangs = True
    alerts = hook.alerts()
    alerts.tell("orphan", "one")
    alerts.tell("orphan", "two", about="2")
    await asyncio.sleep(1)
    began = asyncio.get_running_loop().time()
    await alerts.close(5)
    assert asyncio.get_running_loop().time() - began <= 5
    assert hook.done == ["lost", "lost"]


async def test_where_nobody_wants_to_know_nothing_happens() -> None:
    nobody = NoAlerts()
    nobody.tell("orphan", "one")
    await nobody.close(0)


async def test_the_hook_is_posted_to_and_no_redirect_is_followed() -> None:
    got: list[tuple[str, bytes, str]] = []

    async def take(request: web.Request) -> web.Response:
        got.append((request.path, await request.read(), request.headers["Content-Type"]))
        if request.path == "/moved":
            raise web.HTTPFound("/hook")
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/{tail:.*}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        nobodys = pytest.fail
        assert await web_hook(f"http://127.0.0.1:{port}/hook?token=x", nobodys)(b"{}") == 204
        assert await web_hook(f"http://127.0.0.1:{port}/moved", nobodys)(b"{}") == 302
        assert got == [("/hook", b"{}", "application/json"), ("/moved", b"{}", "application/json")]
    finally:
        await runner.cleanup()
    with pytest.raises(OSError) as caught:
        await web_hook(f"http://127.0.0.1:{port}/secret-path", nobodys)(b"{}")
    assert "secret-path" not in str(caught.value)
